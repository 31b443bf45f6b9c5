// Level 2. A tile of 64 keys lies in shared memory beside 16 heads of a query: a key is read once for 16 heads, and
// in the dense warm-up, where all queries behind a key see it, once for a piece of them; the pieces' sums are added
// in their order.
#include "optimized/attention/candidates.cuh"
#include "optimized/attention/selected.h"
#include "optimized/attention/softmax.cuh"
#include "optimized/column_sums/column_sums.h"
#include "optimized/indexer_kl_loss/dot.cuh"
#include "optimized/indexer_kl_loss/loss.cuh"
#include "optimized/indexer_kl_loss/scratch.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

constexpr int keys_each = 64;
constexpr int heads_each = 16;
constexpr int widest = 128;  // D_I
constexpr int threads = 256;
constexpr int head_parts = threads / keys_each;        // of a tile's heads: a thread has one key and one part
constexpr int heads_a_part = heads_each / head_parts;  // dots a thread
constexpr int column_parts = threads / widest;  // a thread has one column of dq or dk, and one part of the rows

struct Shared {
    float keys[keys_each][widest + 1];  // 32 keys of a column lie in different banks
    float q[heads_each][widest + 1];
    float weight[heads_each][keys_each + 1];  // dL/d(dot)
    float d_weight[head_parts][keys_each];    // what a part of the heads gives to a key's score
    float head_sums[heads_each];
    std::int64_t positions[keys_each];
    float d_scores[keys_each];
};

__device__ int own_key() { return static_cast<int>(threadIdx.x) % keys_each; }
__device__ int own_heads() { return static_cast<int>(threadIdx.x) / keys_each * heads_a_part; }
__device__ int own_column() { return static_cast<int>(threadIdx.x) % widest; }
__device__ int own_part() { return static_cast<int>(threadIdx.x) / widest; }

// The keys at memory.positions; zeros where there is none.
__device__ void bring_keys(Shared& memory, const IndexerKlLoss& call) {
    const int D_I = static_cast<int>(call.D_I);
    for (int i = static_cast<int>(threadIdx.x); i < keys_each * D_I; i += threads) {
        const std::int64_t position = memory.positions[i / D_I];
        memory.keys[i / D_I][i % D_I] = position < 0 ? 0.0F : call.k[position * D_I + i % D_I];
    }
}

// Heads [first, first + 16) of query t; zeros past the last.
__device__ void bring_heads(Shared& memory, const IndexerKlLoss& call, std::int64_t t, std::int64_t first) {
    const int D_I = static_cast<int>(call.D_I);
    for (int i = static_cast<int>(threadIdx.x); i < heads_each * D_I; i += threads) {
        const std::int64_t head = first + i / D_I;
        memory.q[i / D_I][i % D_I] = head < call.H_I ? call.q[(t * call.H_I + head) * D_I + i % D_I] : 0.0F;
    }
}

// This thread's key with its four heads.
__device__ void multiply(const Shared& memory, int D_I, float (&dots)[heads_a_part]) {
    for (float& x : dots) x = 0.0F;
    for (int c = 0; c < D_I; ++c) {
        const float key = memory.keys[own_key()][c];
#pragma unroll
        for (int j = 0; j < heads_a_part; ++j) dots[j] += memory.q[own_heads() + j][c] * key;
    }
}

__device__ float weight_of_head(const IndexerKlLoss& call, std::int64_t t, std::int64_t head) {
    return head < call.H_I ? call.weights[t * call.H_I + head] : 0.0F;
}

// I(t, s), -inf where there is no candidate. Block (query, 64 slots).
__global__ void __launch_bounds__(threads) score(IndexerKlLoss call, Candidates candidates, float* scores) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const std::int64_t slot = std::int64_t{blockIdx.y} * keys_each + own_key();
    const std::int64_t position = slot < call.n ? candidates.position(t, slot) : -1;
    if (threadIdx.x < keys_each) memory.positions[threadIdx.x] = position;
    __syncthreads();
    bring_keys(memory, call);
    float sum = 0.0F;
    for (std::int64_t first = 0; first < call.H_I; first += heads_each) {
        __syncthreads();
        bring_heads(memory, call, t, first);
        __syncthreads();
        float dots[heads_a_part];
        multiply(memory, static_cast<int>(call.D_I), dots);
#pragma unroll
        for (int j = 0; j < heads_a_part; ++j)
            sum += weight_of_head(call, t, first + own_heads() + j) * relu(dots[j]);
    }
    memory.d_weight[threadIdx.x / keys_each][own_key()] = sum;
    __syncthreads();
    if (threadIdx.x >= keys_each || slot >= call.n) return;
    sum = 0.0F;
    for (int part = 0; part < head_parts; ++part) sum += memory.d_weight[part][own_key()];
    scores[t * call.n + slot] = position >= 0 ? sum : minus_infinity();
}

// memory.weight = dI w [dot > 0] of the heads in memory.q and the keys in memory.keys; also dI ReLU(dot) of this
// thread's.
__device__ void weigh(Shared& memory, const IndexerKlLoss& call, std::int64_t t, std::int64_t first,
                      float (&relu_part)[heads_a_part]) {
    float dots[heads_a_part];
    multiply(memory, static_cast<int>(call.D_I), dots);
    const float d_score = memory.d_scores[own_key()];
#pragma unroll
    for (int j = 0; j < heads_a_part; ++j) {
        const float w = weight_of_head(call, t, first + own_heads() + j);
        memory.weight[own_heads() + j][own_key()] = dots[j] > 0.0F ? d_score * w : 0.0F;
        relu_part[j] = d_score * relu(dots[j]);
    }
}

// dq and dweights. Block (query, 16 heads).
__global__ void __launch_bounds__(threads)
    gradient_of_heads(IndexerKlLoss call, Candidates candidates, const float* d_scores, const float* factor) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const std::int64_t first_head = std::int64_t{blockIdx.y} * heads_each;
    constexpr int mine = heads_each / column_parts;
    float dq[mine] = {};
    float d_weight[heads_a_part] = {};  // of this thread's keys
    bring_heads(memory, call, t, first_head);
    for (std::int64_t first = 0; first < call.n; first += keys_each) {
        if (threadIdx.x < keys_each) {
            const std::int64_t slot = first + threadIdx.x;
            const std::int64_t position = slot < call.n ? candidates.position(t, slot) : -1;
            memory.positions[threadIdx.x] = position;
            memory.d_scores[threadIdx.x] = position >= 0 ? *factor * d_scores[t * call.n + slot] : 0.0F;
        }
        __syncthreads();
        bring_keys(memory, call);
        __syncthreads();
        float relu_part[heads_a_part];
        weigh(memory, call, t, first_head, relu_part);
#pragma unroll
        for (int j = 0; j < heads_a_part; ++j) d_weight[j] += relu_part[j];
        __syncthreads();
        if (own_column() < call.D_I)
            for (int i = 0; i < keys_each; ++i) {
                const float key = memory.keys[i][own_column()];
#pragma unroll
                for (int j = 0; j < mine; ++j) dq[j] += memory.weight[own_part() * mine + j][i] * key;
            }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < mine; ++j) {
        const std::int64_t head = first_head + own_part() * mine + j;
        if (head < call.H_I && own_column() < call.D_I)
            call.dq[(t * call.H_I + head) * call.D_I + own_column()] = dq[j];
    }
    // The threads of one part of the heads are two warps: a warp's sum, then both.
#pragma unroll
    for (int j = 0; j < heads_a_part; ++j) {
        const float sum = over_warp(d_weight[j], Sum());
        if (threadIdx.x % keys_each == 0) memory.head_sums[own_heads() + j] = sum;
        __syncthreads();
        if (threadIdx.x % keys_each == warp_size) memory.head_sums[own_heads() + j] += sum;
    }
    __syncthreads();
    const std::int64_t head = first_head + threadIdx.x;
    if (threadIdx.x < heads_each && head < call.H_I)
        call.dweights[t * call.H_I + head] = memory.head_sums[threadIdx.x];
}

// dk of 64 positions that queries see together (no indices), over the queries of a piece in their order. Block (64
// positions, piece).
__global__ void __launch_bounds__(threads) gradient_of_keys(IndexerKlLoss call, const float* d_scores,
                                                            const float* factor, float* parts, std::int64_t piece) {
    Shared& memory = shared<Shared>();
    const std::int64_t first_key = std::int64_t{blockIdx.x} * keys_each;
    constexpr int mine = keys_each / column_parts;
    float dk[mine] = {};
    if (threadIdx.x < keys_each)
        memory.positions[threadIdx.x] = first_key + threadIdx.x < call.S ? first_key + threadIdx.x : -1;
    __syncthreads();
    bring_keys(memory, call);
    const std::int64_t behind = first_key - (call.S - call.T);  // the first query that sees the first of them
    const std::int64_t begin = std::int64_t{blockIdx.y} * piece;
    const std::int64_t end = min(begin + piece, call.T);
    for (std::int64_t t = behind > begin ? behind : begin; t < end; ++t) {
        if (threadIdx.x < keys_each) {
            const std::int64_t position = memory.positions[threadIdx.x];
            // Where query t does not see the position its d_score is 0.
            memory.d_scores[threadIdx.x] = position >= 0 ? *factor * d_scores[t * call.n + position] : 0.0F;
        }
        for (std::int64_t first = 0; first < call.H_I; first += heads_each) {
            bring_heads(memory, call, t, first);
            __syncthreads();
            float relu_part[heads_a_part];
            weigh(memory, call, t, first, relu_part);
            __syncthreads();
            if (own_column() < call.D_I)
                for (int j = 0; j < heads_each; ++j) {
                    const float q = memory.q[j][own_column()];
#pragma unroll
                    for (int i = 0; i < mine; ++i) dk[i] += memory.weight[j][own_part() * mine + i] * q;
                }
            __syncthreads();
        }
    }
#pragma unroll
    for (int i = 0; i < mine; ++i) {
        const std::int64_t position = first_key + own_part() * mine + i;
        if (position < call.S && own_column() < call.D_I)
            parts[(blockIdx.y * call.S + position) * call.D_I + own_column()] = dk[i];
    }
}

}  // namespace

std::string indexer_kl_loss_level_2_declines(const IndexerKlLoss& call) {
    if (call.D_I > widest) return sentence("D_I must be at most ", widest, "; it is ", call.D_I);
    return call.p != nullptr ? "" : attention_target_level_2_declines(call.target);
}

void kl_scores_level_2(const IndexerKlLoss& call, const KlScratch& scratch) {
    launch("indexer_score", score,
           {.blocks = call.T,
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.n, keys_each)},
           call, Candidates{scratch.kept, call.T, call.S, call.n}, scratch.d_scores);
}

void kl_gradients_level_2(const IndexerKlLoss& call, const KlScratch& scratch) {
    Launch how{.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream};
    how.blocks_y = blocks_for(call.H_I, heads_each);
    launch("gradient_of_heads", gradient_of_heads, how, call, Candidates{scratch.kept, call.T, call.S, call.n},
           scratch.d_scores, scratch.factor);
    if (call.indices != nullptr) return gradient_of_keys_one_block_each(call, scratch);
    const std::int64_t pieces = kl_pieces_of_queries(call);
    float* parts = pieces > 1 ? scratch.dk_parts : call.dk;
    how.blocks = blocks_for(call.S, keys_each);
    how.blocks_y = pieces;
    launch("gradient_of_keys", gradient_of_keys, how, call, scratch.d_scores, scratch.factor, parts,
           blocks_for(call.T, pieces));
    if (pieces > 1) add_pieces(parts, call.dk, pieces, call.S * call.D_I, call.stream);
}

void indexer_kl_loss_level_2(const IndexerKlLoss& call) {
    require_workspace(call.workspace, call.workspace_bytes, indexer_kl_loss_workspace(call));
    Arena arena(call.workspace);
    const KlScratch scratch(call, arena);
    if (call.indices != nullptr) {
        keep_selected(call.indices, scratch.kept, call.T, call.n, call.S, call.stream);
        mark_selectors(scratch.kept, scratch.bits, call.T, call.n, call.S, call.stream);
    }
    if (call.p == nullptr) attention_target_level_2(scratch.target);
    kl_scores_level_2(call, scratch);
    loss_of_scores(call, scratch);
    kl_gradients_level_2(call, scratch);
}

}  // namespace dsa
