// Level 4. indexer_logits, then top_k, for as many queries at a time as have room where level 3 would keep their
// candidates: O(T k) too. For rows so short, or queries so few, that level 3's sample and its choice among columns
// cost more than the scores' way through memory. Bound: FLOPs, as indexer_logits; the bytes of the keys where queries
// are few.
#include <algorithm>

#include "optimized/indexer_logits/ring_levels.cuh"
#include "optimized/indexer_top_k/op.h"
#include "optimized/support/at_level.h"
#include "optimized/top_k/op.h"

namespace dsa {
namespace {

constexpr std::int64_t longest_row = 1 << 23;

// Bytes of a strip's scores.
#if defined(DSA_SIMULATOR)
std::int64_t room_for_scores(const IndexerTopK&) { return 1 << 13; }  // small cases shall have several strips too
#else
std::int64_t room_for_scores(const IndexerTopK& call) { return indexer_top_k_workspace_3(call); }
#endif

// Queries of a strip: whole groups of the ring, and all strips alike.
std::int64_t queries_of_a_strip(const IndexerTopK& call) {
    const IndexerLogits& scoring = call.scoring;
    const std::int64_t group = scoring.H_I <= 16 ? 32 : scoring.H_I <= 32 ? 16 : 8;
    if (scoring.T == 0 || scoring.S == 0) return scoring.T;
    const std::int64_t row_bytes = scoring.S * std::int64_t{sizeof(float)};
    const std::int64_t most = std::max(room_for_scores(call) / row_bytes / group, std::int64_t{1}) * group;
    const std::int64_t strips = (scoring.T + most - 1) / most;
    const std::int64_t even = (scoring.T + strips - 1) / strips;
    return std::min(scoring.T, (even + group - 1) / group * group);
}

}  // namespace

std::int64_t indexer_top_k_workspace_4(const IndexerTopK& call) {
    return queries_of_a_strip(call) * call.scoring.S * std::int64_t{sizeof(float)};
}

std::string indexer_top_k_level_4_declines(const IndexerTopK& call) {
    if (call.scoring.S > longest_row)
        return sentence("a group of queries shall have room: rows of up to ", longest_row, " keys; these have ",
                        call.scoring.S);
    return ring_declines(call.scoring);
}

bool indexer_top_k_is_one_strip(const IndexerTopK& call) { return queries_of_a_strip(call) == call.scoring.T; }

void indexer_top_k_level_4(const IndexerTopK& call) {
    const std::int64_t strip = queries_of_a_strip(call);
    for (std::int64_t t = 0; t < call.scoring.T; t += strip) {
        IndexerLogits scores = call.scoring;
        scores.T = std::min(strip, call.scoring.T - t);
        scores.q += t * scores.H_I * scores.D_I;
        scores.weights += t * scores.H_I;
        scores.start += t;
        scores.end += t;
        scores.logits = static_cast<float*>(call.workspace);  // [strip, S]
        const AtLevel fastest(0);
        indexer_logits(scores);
        top_k({.logits = scores.logits,
               .start = scores.start,
               .end = scores.end,
               .indices = call.indices + t * call.k,
               .T = scores.T,
               .S = scores.S,
               .k = call.k,
               .nan_as_minus_infinity = call.nan_as_minus_infinity,
               .stream = scores.stream});
    }
}

}  // namespace dsa
