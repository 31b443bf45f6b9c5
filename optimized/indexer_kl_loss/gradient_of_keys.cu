// dk where a block owns a key: level 1, and every level where queries choose their keys, since two neighbouring keys
// are chosen by different queries.
#include "optimized/attention/candidates.cuh"
#include "optimized/indexer_kl_loss/dot.cuh"
#include "optimized/indexer_kl_loss/scratch.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 128;     // heads at once
constexpr int columns_each = 4;  // of dk, a thread
constexpr int block_columns = threads * columns_each;

struct Shared {
    float weight[threads];
    std::int64_t slot;
};

// What query t gives to the dk of `position`: sum over heads of dI w [dot > 0] q.
__device__ void add_query(const IndexerKlLoss& call, Shared& memory, std::int64_t t, std::int64_t position,
                          float d_score, std::int64_t first_column, float (&dk)[columns_each]) {
    for (std::int64_t first = 0; first < call.H_I; first += threads) {
        const std::int64_t head = first + threadIdx.x;
        if (head < call.H_I) {
            const std::int64_t row = t * call.H_I + head;
            const float x = dot(call.q + row * call.D_I, call.k + position * call.D_I, call.D_I);
            memory.weight[threadIdx.x] = x > 0.0F ? d_score * call.weights[row] : 0.0F;
        }
        __syncthreads();
        const std::int64_t heads = min(std::int64_t{threads}, call.H_I - first);
#pragma unroll
        for (int j = 0; j < columns_each; ++j) {
            const std::int64_t column = first_column + j * threads;
            if (column >= call.D_I) continue;
            for (std::int64_t i = 0; i < heads; ++i)
                dk[j] += memory.weight[i] * call.q[(t * call.H_I + first + i) * call.D_I + column];
        }
        __syncthreads();
    }
}

// dk, over the queries in their order. Block (position, a part of dk's columns).
__global__ void __launch_bounds__(threads)
    gradient_of_key(IndexerKlLoss call, Candidates candidates, const std::uint32_t* bits, const float* d_scores,
                    const float* factor) {
    Shared& memory = shared<Shared>();
    const std::int64_t position = blockIdx.x;
    const std::int64_t first_column = std::int64_t{blockIdx.y} * block_columns + threadIdx.x;
    float dk[columns_each] = {};
    if (candidates.kept == nullptr) {
        const std::int64_t behind = position - (call.S - call.T);  // the first query that sees it
        for (std::int64_t t = behind > 0 ? behind : 0; t < call.T; ++t)
            add_query(call, memory, t, position, *factor * d_scores[t * call.n + position], first_column, dk);
    } else {
        const std::int64_t words = (call.T + 31) / 32;
        for (std::int64_t word = 0; word < words; ++word) {
            std::uint32_t left = bits[position * words + word];
            for (; left != 0; left &= left - 1) {
                const std::int64_t t = word * 32 + __ffs(left) - 1;
                for (std::int64_t slot = threadIdx.x; slot < call.n; slot += threads)
                    if (candidates.position(t, slot) == position) memory.slot = slot;  // one has it
                __syncthreads();
                add_query(call, memory, t, position, *factor * d_scores[t * call.n + memory.slot], first_column, dk);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < columns_each; ++j) {
        const std::int64_t column = first_column + j * threads;
        if (column < call.D_I) call.dk[position * call.D_I + column] = dk[j];
    }
}

}  // namespace

void gradient_of_keys_one_block_each(const IndexerKlLoss& call, const KlScratch& scratch) {
    launch("gradient_of_key", gradient_of_key,
           {.blocks = call.S,
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.D_I, block_columns)},
           call, Candidates{scratch.kept, call.T, call.S, call.n}, scratch.bits, scratch.d_scores, scratch.factor);
}

}  // namespace dsa
