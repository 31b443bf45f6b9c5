// The indexer within a step: scores from detached inputs, a choice, and, once the target is there, its loss and the
// gradients of its weights. Nothing comes to them from the layers above, so the way back is gone at once and nothing
// is kept.
#pragma once

#include "optimized/support/arena.h"
#include "optimized/training_step/parts.h"

namespace dsa {

struct IndexerStep {
    const TrainingStep* call;
    Parts parts;
    LayerInputs w;
    LayerGradients d;
    const bf16* x;                                // [T, D]
    const bf16* c_q;                              // [T, R_q]
    const std::int32_t *positions, *start, *end;  // [T]
    float* kl_loss;                               // [1]
};

struct IndexerScratch {
    bf16* q_linear;  // [T, H_I, D_I], as the product leaves it
    bf16* k_linear;  // [T, D_I]
    bf16* k_normal;  // [T, D_I]
    bf16* q_stored;  // [T, H_I, D_I], turned and transformed; on the way back scratch
    bf16* k_stored;  // [T, D_I]
    e4m3* q_e4m3;    // the same quantised, where that is simulated
    e4m3* k_e4m3;
    float* q_scale;         // [T, H_I]
    float* k_scale;         // [T]
    float* q;               // [T, H_I, D_I], as the loss takes it
    float* k;               // [T, D_I]
    float* weights;         // [T, H_I]
    float* scores;          // [T, T], then dL/dI before the factor
    float* factor;          // [1]
    std::int32_t* indices;  // [T, topk], in the sparse stage
    float* dq;              // [T, H_I, D_I]
    float* dk;              // [T, D_I]
    float* dweights;        // [T, H_I]
    bf16* d_stored;         // [T, H_I, D_I], or [T, H_I]: what a product takes
    bf16* d_normal;         // [T, D_I]
    bf16* d_linear;         // [T, D_I]
    void* of_parts;
    std::int64_t of_parts_bytes;

    IndexerScratch(const TrainingStep& call, int level, Arena& arena);
};

// Scores; in the sparse stage also the choice, and who made it: selectors [T, selector_words(T)].
void score_positions(const IndexerStep& step, const IndexerScratch& scratch, std::uint32_t* selectors);
// target: [T, T]
void learn_target(const IndexerStep& step, const IndexerScratch& scratch, const float* target,
                  const std::uint32_t* selectors);

}  // namespace dsa
