// indexer_logits and top_k as one, without any [T, S] tensor: memory O(T k). Ties, NaN and order as in top_k/op.h.
// spec sections 3 and 4.
//
// A query keeps candidates, key and position, in the order of positions. When they are full, only the k best stay,
// and the k-th best becomes the threshold: a later candidate must be better than it, since of equals the earlier one
// wins. So nothing is ever lost, and the result is that of a full sort.
//
// level 1  one block a query: a thread a key scores 128 keys, then those above the threshold are appended
// level 2  tensor cores: a block's 4 queries share the keys, and each warp appends for one query
// level 3  wgmma, with Hopper's sums: indexer_logits' ring, each thread of which appends to a column of its own what
//          exceeds the guess that a sample of the keys allows; then a block a query chooses
// level 4  indexer_logits and top_k in strips of queries whose scores fit into level 3's room: short rows, few
// queries
#pragma once

#include "optimized/indexer_logits/op.h"

namespace dsa {

struct IndexerTopK {
    IndexerLogits scoring;  // without logits
    std::int32_t* indices;  // [T, k]
    std::int64_t k;
    bool nan_as_minus_infinity;
    void* workspace;
    std::int64_t workspace_bytes;
};

// The chosen level, for layers that hold such a call.
void indexer_top_k(const IndexerTopK& call);
std::int64_t indexer_top_k_workspace(const IndexerTopK& call);

// How many candidates a query has room for: k, and as many again before the k best are selected; never more than S.
std::int64_t room_for_candidates(const IndexerTopK& call);
// The workspace, [T, room_for_candidates] of a key and a position.
std::int64_t candidate_bytes(const IndexerTopK& call);

void indexer_top_k_level_1(const IndexerTopK& call);
void indexer_top_k_level_2(const IndexerTopK& call);
std::string indexer_top_k_level_2_declines(const IndexerTopK& call);
void indexer_top_k_level_3(const IndexerTopK& call);
std::string indexer_top_k_level_3_declines(const IndexerTopK& call);
std::int64_t indexer_top_k_workspace_3(const IndexerTopK& call);
void indexer_top_k_level_4(const IndexerTopK& call);
std::string indexer_top_k_level_4_declines(const IndexerTopK& call);
std::int64_t indexer_top_k_workspace_4(const IndexerTopK& call);
bool indexer_top_k_is_one_strip(const IndexerTopK& call);

}  // namespace dsa
