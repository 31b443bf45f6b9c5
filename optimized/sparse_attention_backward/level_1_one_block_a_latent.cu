// Level 1. Two kernels that add in a fixed order: a block owns the dq of a head, a block owns the dkv of a latent.
// Each computes the probabilities that it needs from lse, so they are computed twice.
#include "optimized/attention/selected.h"
#include "optimized/attention/selectors.h"
#include "optimized/attention/softmax.cuh"
#include "optimized/sparse_attention_backward/delta.cuh"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 128;     // positions, or heads, at once
constexpr int columns_each = 5;  // of dq or dkv, a thread
constexpr int block_columns = threads * columns_each;

struct Shared {
    float sums[32];
    float d_score[threads];
    float p[threads];
    std::int64_t positions[threads];
};

struct Scratch {
    std::int32_t* kept;   // [T, k]
    std::uint32_t* bits;  // [S, selector_words(T)]
    float* delta;         // [T, H]

    Scratch(const SparseAttentionBackward& call, Arena& arena) {
        kept = arena.take<std::int32_t>(call.T * call.k);
        bits = arena.take<std::uint32_t>(call.S * selector_words(call.T));
        delta = arena.take<float>(call.T * call.H);
    }
};

// What one position gives to one row of q: p = exp(logit - lse), dscore = p (dout . value - delta) scale, both as the
// products take them, rounded to bf16.
struct Weight {
    float p, d_score;
};
__device__ Weight weight_of(const SparseAttentionBackward& call, const float* delta, std::int64_t row,
                            std::int64_t position) {
    const bf16* latent = call.kv + position * call.d;  // [d]
    const float p = expf(dot(call.q + row * call.d, latent, call.d) * call.scale - call.lse[row]);
    const float d_p = dot(call.dout + row * call.d_v, latent, call.d_v);
    return {through_bf16(p), through_bf16(p * (d_p - delta[row]) * call.scale)};
}

// dq = sum over positions of dscore kv. Block (row of q, a part of its columns).
__global__ void __launch_bounds__(threads)
    gradient_of_head(SparseAttentionBackward call, const std::int32_t* kept, const float* delta) {
    Shared& memory = shared<Shared>();
    const std::int64_t row = blockIdx.x;
    const std::int64_t t = row / call.H;
    const std::int64_t first_column = std::int64_t{blockIdx.y} * block_columns + threadIdx.x;
    float dq[columns_each] = {};
    for (std::int64_t first = 0; first < call.k; first += threads) {
        const std::int64_t slot = first + threadIdx.x;
        const std::int64_t position = slot < call.k ? kept[t * call.k + slot] : -1;
        memory.positions[threadIdx.x] = position;
        if (position >= 0) memory.d_score[threadIdx.x] = weight_of(call, delta, row, position).d_score;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < columns_each; ++j) {
            const std::int64_t column = first_column + j * threads;
            if (column >= call.d) continue;
            for (int i = 0; i < threads; ++i)
                if (memory.positions[i] >= 0)
                    dq[j] += memory.d_score[i] * to_float(call.kv[memory.positions[i] * call.d + column]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < columns_each; ++j) {
        const std::int64_t column = first_column + j * threads;
        if (column < call.d) call.dq[row * call.d + column] = to_bf16(dq[j]);
    }
}

// dkv = sum over queries, in their order, and heads of dscore q + p dout. Block (position, a part of its columns).
__global__ void __launch_bounds__(threads)
    gradient_of_latent(SparseAttentionBackward call, const std::uint32_t* bits, const float* delta) {
    Shared& memory = shared<Shared>();
    const std::int64_t position = blockIdx.x;
    const std::int64_t words = (call.T + 31) / 32;
    const std::int64_t first_column = std::int64_t{blockIdx.y} * block_columns + threadIdx.x;
    float dkv[columns_each] = {};
    for (std::int64_t word = 0; word < words; ++word) {
        std::uint32_t left = bits[position * words + word];
        for (; left != 0; left &= left - 1) {
            const std::int64_t t = word * 32 + __ffs(left) - 1;
            for (std::int64_t first = 0; first < call.H; first += threads) {
                const std::int64_t head = first + threadIdx.x;
                if (head < call.H) {
                    const Weight weight = weight_of(call, delta, t * call.H + head, position);
                    memory.p[threadIdx.x] = weight.p;
                    memory.d_score[threadIdx.x] = weight.d_score;
                }
                __syncthreads();
                const std::int64_t heads = min(std::int64_t{threads}, call.H - first);
#pragma unroll
                for (int j = 0; j < columns_each; ++j) {
                    const std::int64_t column = first_column + j * threads;
                    if (column >= call.d) continue;
                    for (std::int64_t i = 0; i < heads; ++i) {
                        const std::int64_t row = t * call.H + first + i;
                        dkv[j] += memory.d_score[i] * to_float(call.q[row * call.d + column]);
                        if (column < call.d_v) dkv[j] += memory.p[i] * to_float(call.dout[row * call.d_v + column]);
                    }
                }
                __syncthreads();
            }
        }
    }
#pragma unroll
    for (int j = 0; j < columns_each; ++j) {
        const std::int64_t column = first_column + j * threads;
        if (column < call.d) call.dkv[position * call.d + column] = dkv[j];
    }
}

}  // namespace

std::int64_t sparse_attention_backward_workspace_1(const SparseAttentionBackward& call) {
    Arena arena;
    const Scratch scratch(call, arena);
    return arena.bytes();
}

void sparse_attention_backward_level_1(const SparseAttentionBackward& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_attention_backward_workspace_1(call));
    Arena arena(call.workspace);
    const Scratch scratch(call, arena);
    keep_selected_by_comparing(call.indices, scratch.kept, call.T, call.k, call.S, call.stream);
    mark_selectors(scratch.kept, scratch.bits, call.T, call.k, call.S, call.stream);
    const std::int64_t parts = blocks_for(call.d, block_columns);
    delta_of_rows(call, scratch.delta);
    launch("gradient_of_head", gradient_of_head,
           {.blocks = call.T * call.H,
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = parts},
           call, scratch.kept, scratch.delta);
    launch("gradient_of_latent", gradient_of_latent,
           {.blocks = call.S,
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = parts},
           call, scratch.bits, scratch.delta);
}

}  // namespace dsa
