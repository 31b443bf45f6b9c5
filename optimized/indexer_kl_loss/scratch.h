// The loss's workspace. The largest are one number a candidate, [T, n]; nothing has an axis of heads beside.
#pragma once

#include <algorithm>

#include "optimized/attention/selectors.h"
#include "optimized/indexer_kl_loss/op.h"
#include "optimized/support/arena.h"

namespace dsa {

// Into how many pieces level 2 splits the queries for dk: so many that tiles of 64 keys fill the GPU, each of at
// least 16 queries. The number follows from the sizes alone.
inline std::int64_t kl_pieces_of_queries(const IndexerKlLoss& call) {
    if (call.indices != nullptr || call.S == 0) return 1;
    constexpr std::int64_t enough_blocks = 4 * 132;  // four for each of an H100's multiprocessors
    const std::int64_t wanted = enough_blocks * 64 / call.S;
    const std::int64_t most = call.T / 16;
    return std::max<std::int64_t>(1, std::min(wanted, most));
}

struct KlScratch {
    std::int32_t* kept = nullptr;   // [T, k], where there are indices
    std::uint32_t* bits = nullptr;  // [S, selector_words(T)], where there are indices
    float* d_scores;                // [T, n]: the scores, then dL/dI before the factor
    float* losses;                  // [T]
    std::int32_t* counts;           // [T]: 1 where the query has a candidate
    float* factor;                  // [1]: the coefficient, over the number of queries for the mean
    float* dk_parts = nullptr;      // [pieces, S, D_I], where level 2 splits the queries
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
        take_parts(call, arena);
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
          target{} {
        take_parts(call, arena);
    }
    const float* p(const IndexerKlLoss& call) const { return call.p != nullptr ? call.p : target.p; }

   private:
    void take_parts(const IndexerKlLoss& call, Arena& arena) {
        const std::int64_t pieces = kl_pieces_of_queries(call);
        if (pieces > 1) dk_parts = arena.take<float>(pieces * call.S * call.D_I);
    }
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
