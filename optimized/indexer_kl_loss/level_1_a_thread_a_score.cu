// Level 1. The scores are written once; whoever needs a head's dot computes it again: the sum over heads is all that
// is kept of them.
#include "optimized/attention/candidates.cuh"
#include "optimized/attention/selected.h"
#include "optimized/attention/softmax.cuh"
#include "optimized/indexer_kl_loss/dot.cuh"
#include "optimized/indexer_kl_loss/loss.cuh"
#include "optimized/indexer_kl_loss/scratch.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

constexpr int threads = 128;     // candidates at once
constexpr int columns_each = 4;  // of dq, a thread
constexpr int block_columns = threads * columns_each;

struct Shared {
    float sums[32];
    float weight[threads];
    std::int64_t positions[threads];
};

// I(t, s), -inf where there is no candidate. Block (query, 128 slots).
__global__ void __launch_bounds__(threads) score(IndexerKlLoss call, Candidates candidates, float* scores) {
    const std::int64_t t = blockIdx.x;
    const std::int64_t slot = std::int64_t{blockIdx.y} * threads + threadIdx.x;
    if (slot >= call.n) return;
    const std::int64_t position = candidates.position(t, slot);
    float sum = 0.0F;
    for (std::int64_t j = 0; position >= 0 && j < call.H_I; ++j) {
        const std::int64_t row = t * call.H_I + j;
        sum += call.weights[row] * relu(dot(call.q + row * call.D_I, call.k + position * call.D_I, call.D_I));
    }
    scores[t * call.n + slot] = position >= 0 ? sum : minus_infinity();
}

// dq = sum_s dI w [dot > 0] k, dweights = sum_s dI ReLU(dot). Block (query H_I + head, a part of dq's columns).
__global__ void __launch_bounds__(threads)
    gradient_of_head(IndexerKlLoss call, Candidates candidates, const float* d_scores, const float* factor) {
    Shared& memory = shared<Shared>();
    const std::int64_t row = blockIdx.x;
    const std::int64_t t = row / call.H_I;
    const std::int64_t first_column = std::int64_t{blockIdx.y} * block_columns + threadIdx.x;
    float dq[columns_each] = {};
    float d_weight = 0.0F;
    for (std::int64_t first = 0; first < call.n; first += threads) {
        const std::int64_t slot = first + threadIdx.x;
        const std::int64_t position = slot < call.n ? candidates.position(t, slot) : -1;
        float weight = 0.0F;
        if (position >= 0) {
            const float x = dot(call.q + row * call.D_I, call.k + position * call.D_I, call.D_I);
            const float d_score = *factor * d_scores[t * call.n + slot];
            d_weight += d_score * relu(x);
            weight = x > 0.0F ? d_score * call.weights[row] : 0.0F;
        }
        memory.positions[threadIdx.x] = position;
        memory.weight[threadIdx.x] = weight;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < columns_each; ++j) {
            const std::int64_t column = first_column + j * threads;
            if (column >= call.D_I) continue;
            for (int i = 0; i < threads; ++i)
                if (memory.positions[i] >= 0)
                    dq[j] += memory.weight[i] * call.k[memory.positions[i] * call.D_I + column];
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < columns_each; ++j) {
        const std::int64_t column = first_column + j * threads;
        if (column < call.D_I) call.dq[row * call.D_I + column] = dq[j];
    }
    d_weight = over_block(d_weight, memory.sums, Sum());
    if (threadIdx.x == 0 && blockIdx.y == 0) call.dweights[row] = d_weight;
}

}  // namespace

void kl_scores_level_1(const IndexerKlLoss& call, const KlScratch& scratch) {
    launch("indexer_score", score,
           {.blocks = call.T, .threads = threads, .stream = call.stream, .blocks_y = blocks_for(call.n, threads)},
           call, Candidates{scratch.kept, call.T, call.S, call.n}, scratch.d_scores);
}

void kl_gradients_level_1(const IndexerKlLoss& call, const KlScratch& scratch) {
    launch("gradient_of_head", gradient_of_head,
           {.blocks = call.T * call.H_I,
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.D_I, block_columns)},
           call, Candidates{scratch.kept, call.T, call.S, call.n}, scratch.d_scores, scratch.factor);
    gradient_of_keys_one_block_each(call, scratch);
}

void indexer_kl_loss_level_1(const IndexerKlLoss& call) {
    require_workspace(call.workspace, call.workspace_bytes, indexer_kl_loss_workspace(call));
    Arena arena(call.workspace);
    const KlScratch scratch(call, arena);
    if (call.indices != nullptr) {
        keep_selected_by_comparing(call.indices, scratch.kept, call.T, call.n, call.S, call.stream);
        mark_selectors(scratch.kept, scratch.bits, call.T, call.n, call.S, call.stream);
    }
    if (call.p == nullptr) attention_target_level_1(scratch.target);
    kl_scores_level_1(call, scratch);
    loss_of_scores(call, scratch);
    kl_gradients_level_1(call, scratch);
}

}  // namespace dsa
