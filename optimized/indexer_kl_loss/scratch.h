// The loss's workspace. The largest are one number a candidate, [T, n]; nothing has an axis of heads beside.
#pragma once

#include "optimized/attention/selectors.h"
#include "optimized/indexer_kl_loss/op.h"
#include "optimized/support/arena.h"

namespace dsa {

struct KlScratch {
    std::int32_t* kept = nullptr;   // [T, k], where there are indices
    std::uint32_t* bits = nullptr;  // [S, selector_words(T)], where there are indices
    float* d_scores;                // [T, n]: the scores, then dL/dI before the factor
    float* losses;                  // [T]
    std::int32_t* counts;           // [T]: 1 where the query has a candidate
    float* factor;                  // [1]: the coefficient, over the number of queries for the mean
    AttentionTarget target;         // its p and workspace are ours

    KlScratch(const IndexerKlLoss& call, Arena& arena) : target(call.target) {
        if (call.indices != nullptr) {
            kept = arena.take<std::int32_t>(call.T * call.n);
            bits = arena.take<std::uint32_t>(call.S * selector_words(call.T));
        }
        d_scores = arena.take<float>(call.T * call.n);
        losses = arena.take<float>(call.T);
        counts = arena.take<std::int32_t>(call.T);
        factor = arena.take<float>(1);
        if (call.p != nullptr) return;
        target.p = arena.take<float>(call.T * call.n);
        target.workspace_bytes = attention_target_workspace(target);
        target.workspace = arena.take<unsigned char>(target.workspace_bytes);
    }
    // Scores and factor lie elsewhere: all causal positions are candidates, and p is given.
    KlScratch(const IndexerKlLoss& call, float* scores, float* factor_place, Arena& arena)
        : d_scores(scores),
          losses(arena.take<float>(call.T)),
          counts(arena.take<std::int32_t>(call.T)),
          factor(factor_place),
          target{} {}
    const float* p(const IndexerKlLoss& call) const { return call.p != nullptr ? call.p : target.p; }
};

// A level's parts; bits, or nothing for all causal positions, are ready. Scores to scratch.d_scores; dq, dk and
// dweights from dL/dI there.
void kl_scores_level_1(const IndexerKlLoss& call, const KlScratch& scratch);
void kl_scores_level_2(const IndexerKlLoss& call, const KlScratch& scratch);
void kl_gradients_level_1(const IndexerKlLoss& call, const KlScratch& scratch);
void kl_gradients_level_2(const IndexerKlLoss& call, const KlScratch& scratch);

// dk of all keys; bits, d_scores and factor are ready. Levels share it: gradient_of_keys.cu.
void gradient_of_keys_one_block_each(const IndexerKlLoss& call, const KlScratch& scratch);

}  // namespace dsa
