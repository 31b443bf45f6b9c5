// Which k positions have the highest scores? A total order with no room for luck: higher score first, equal
// scores by lower position. Everything a fast kernel does about ties must end here. spec section 4.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "reference/conventions.h"
#include "reference/numerics/precision.h"

namespace dsa {

// The min(k, end_t - start_t) best positions of each row, ascending by position; -1 in the unused slots at
// the end. -0.0 equals 0.0; -inf ranks below every finite score and +inf above. A NaN is refused with its
// place, or, by the switch, ranks as -inf.
// logits: [T, S]  start, end: [T], 0 <= start_t, end_t <= S  -> indices [T, k]
template <class P>
Array<std::int32_t> top_k(const Tensor<P>& logits, const Array<std::int32_t>& start, const Array<std::int32_t>& end,
                          Index k, NanScores nan_scores = NanScores::error) {
    Array<std::int32_t> indices({logits.dim(0), k}, -1);
    for (Index t = 0; t < logits.dim(0); ++t) {
        std::vector<std::pair<double, std::int32_t>> candidates;  // (score, position)
        for (std::int32_t s = start[t]; s < end[t]; ++s) {
            double score = value_of(logits(t, s));
            if (std::isnan(score)) {
                require(nan_scores == NanScores::minus_infinity, "logits[", t, ", ", s,
                        "] is NaN: a score must be a ",
                        "number; find the stage that made it, or set the convention nan_scores to \"-inf\"");
                score = -std::numeric_limits<double>::infinity();
            }
            candidates.emplace_back(score, s);
        }
        const auto better = [](const auto& a, const auto& b) {
            return a.first != b.first ? a.first > b.first : a.second < b.second;
        };
        const auto kept = std::min<std::size_t>(static_cast<std::size_t>(k), candidates.size());
        std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(kept),
                          candidates.end(), better);
        for (std::size_t i = 0; i < kept; ++i) indices(t, static_cast<Index>(i)) = candidates[i].second;
        std::sort(&indices(t, 0), &indices(t, 0) + kept);
    }
    return indices;
}

// Candidates of a causal call: T queries at the end of a context of S, [0, S - T + t].
inline std::pair<Array<std::int32_t>, Array<std::int32_t>> causal_range(Index T, Index S) {
    Array<std::int32_t> start({T}, 0);
    Array<std::int32_t> end({T}, 0);
    for (Index t = 0; t < T; ++t) end[t] = static_cast<std::int32_t>(S - T + t + 1);
    return {std::move(start), std::move(end)};
}

}  // namespace dsa
