// The loss in its three parts, for a layer that needs the scores for itself.
#include "optimized/indexer_kl_loss/loss.cuh"
#include "optimized/indexer_kl_loss/scratch.h"
#include "optimized/support/ladder.h"

namespace dsa {

std::int64_t indexer_kl_parts_workspace(const IndexerKlLoss& call) {
    Arena arena;
    const KlScratch scratch(call, nullptr, nullptr, arena);
    return arena.bytes();
}

namespace {

// Of the parts: the levels' own where the highest takes such heads.
bool runs_level_2(const IndexerKlLoss& call, int level) {
    return level >= 2 && indexer_kl_loss_level_2_declines(call).empty();
}

KlScratch scratch_of(const IndexerKlLoss& call, float* scores, float* factor) {
    require_workspace(call.workspace, call.workspace_bytes, indexer_kl_parts_workspace(call));
    Arena arena(call.workspace);
    return KlScratch(call, scores, factor, arena);
}

}  // namespace

void indexer_kl_scores(const IndexerKlLoss& call, float* scores, int level) {
    const KlScratch scratch = scratch_of(call, scores, nullptr);
    runs_level_2(call, level) ? kl_scores_level_2(call, scratch) : kl_scores_level_1(call, scratch);
}

void indexer_kl_loss_of_scores(const IndexerKlLoss& call, float* scores, float* factor) {
    loss_of_scores(call, scratch_of(call, scores, factor));
}

void indexer_kl_gradients(const IndexerKlLoss& call, const float* d_scores, const float* factor, int level) {
    // The gradients only read them.
    const KlScratch scratch = scratch_of(call, const_cast<float*>(d_scores), const_cast<float*>(factor));
    runs_level_2(call, level) ? kl_gradients_level_2(call, scratch) : kl_gradients_level_1(call, scratch);
}

}  // namespace dsa
