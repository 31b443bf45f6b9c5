#include "optimized/indexer_top_k/op.h"

#include <algorithm>

#include "optimized/indexer_logits/read.h"
#include "optimized/support/at_level.h"
#include "optimized/support/ladder.h"
#include "optimized/top_k/read.h"

namespace dsa {
namespace {

const Ladder<IndexerTopK> ladder{
    "indexer_top_k",
    {{"candidates above a threshold", indexer_top_k_level_1, nullptr, candidate_bytes},
     {"tensor cores, 4 queries share the keys", indexer_top_k_level_2, indexer_top_k_level_2_declines,
      candidate_bytes},
     {"kept while they are scored", indexer_top_k_level_3, indexer_top_k_level_3_declines, indexer_top_k_workspace_3},
     {"scores of a strip of queries", indexer_top_k_level_4, indexer_top_k_level_4_declines,
      indexer_top_k_workspace_4}}};

IndexerTopK read(const dsa_indexer_top_k_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    IndexerTopK call{};
    call.k = read_k(about, tensors, args.topk);
    read_scoring(about, tensors, args, call.scoring);
    require_positions(call.scoring.S);
    call.indices = tensors.out<std::int32_t>("indices", args.indices, {"T", "topk"});
    call.nan_as_minus_infinity = about.conventions().nan_as_minus_infinity;
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    return call;
}

// Where nobody chooses: level 4 as long as it takes all queries at once, else level 3 (notes.md).
AtLevel fastest_level(const IndexerTopK& call) {
    if (chosen_level() == 0 && indexer_top_k_level_3_declines(call).empty() &&
        (!indexer_top_k_level_4_declines(call).empty() || !indexer_top_k_is_one_strip(call)))
        return AtLevel(3);
    return AtLevel(chosen_level());
}

}  // namespace

std::int64_t room_for_candidates(const IndexerTopK& call) {
    constexpr std::int64_t tile = 128;  // keys that both levels score before they append
    return std::min(call.scoring.S, call.k + std::max(call.k, tile));
}
std::int64_t candidate_bytes(const IndexerTopK& call) {
    constexpr std::int64_t bytes = 8;  // a key and a position
    return call.scoring.T * room_for_candidates(call) * bytes;
}

void indexer_top_k(const IndexerTopK& call) {
    const AtLevel level = fastest_level(call);
    require_workspace(call.workspace, call.workspace_bytes, ladder.workspace(call));
    ladder.run(call);
}
std::int64_t indexer_top_k_workspace(const IndexerTopK& call) {
    const AtLevel level = fastest_level(call);
    return ladder.workspace(call);
}

}  // namespace dsa

extern "C" {
int dsa_indexer_top_k(const dsa_indexer_top_k_args* args) {
    return dsa::answered([&] { dsa::indexer_top_k(dsa::read(*args)); });
}
int64_t dsa_indexer_top_k_workspace(const dsa_indexer_top_k_args* args) {
    return dsa::measured([&] { return dsa::indexer_top_k_workspace(dsa::read(*args)); });
}
}
