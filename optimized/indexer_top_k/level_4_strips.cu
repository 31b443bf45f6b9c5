// Level 4. indexer_logits, then top_k, for so many queries at a time that their scores stay in the L2 cache: for rows
// so short, or queries so few, that level 3's sample and its choice among columns cost more than the way through
// memory. Bound: FLOPs, as indexer_logits; the bytes of the keys where queries are few.
#include <algorithm>

#include "optimized/indexer_logits/ring_levels.cuh"
#include "optimized/indexer_top_k/op.h"
#include "optimized/support/at_level.h"
#include "optimized/top_k/op.h"

namespace dsa {
namespace {

// A strip's scores. An H100's L2 cache holds 50 MB.
#if defined(DSA_SIMULATOR)
constexpr std::int64_t strip_bytes = 1 << 13;  // small cases shall have several strips too
#else
constexpr std::int64_t strip_bytes = 32 << 20;
#endif
constexpr std::int64_t longest_row = (1 << 20) / sizeof(float);

// Queries of a strip: whole groups of the ring, and all strips alike.
std::int64_t queries_of_a_strip(const IndexerTopK& call) {
    const IndexerLogits& scoring = call.scoring;
    const std::int64_t group = scoring.H_I <= 16 ? 32 : scoring.H_I <= 32 ? 16 : 8;
    if (scoring.T == 0 || scoring.S == 0) return scoring.T;
    const std::int64_t row_bytes = scoring.S * std::int64_t{sizeof(float)};
    const std::int64_t most = std::max(strip_bytes / row_bytes / group, std::int64_t{1}) * group;
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
        return sentence("32 queries' scores shall stay in the cache: rows of up to ", longest_row,
                        " keys; these have ", call.scoring.S);
    return ring_declines(call.scoring);
}

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
        indexer_logits_level_4(scores);
        const AtLevel fastest(0);
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
