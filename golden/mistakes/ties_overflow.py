"""More than 256 scores that equal the k-th overflow their buffer, and -1 fills the slots.

Uniform scores (a padded prompt, a warm-up request of zeros, a row of exact zeros after ReLU) tie by the thousand. The
next kernel takes the -1 for an address.
"""

from touchstone.mistakes import Mistake


class TiesOverflow(Mistake):
    row = "ties overflow the candidate buffer, -1 or garbage index follows, illegal access"
    source = "sglang#30645"
    shows = "crash on uniform scores"
    ops = ("top_k", "indexer_top_k")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/top_k.h",
            '''        for (std::size_t i = 0; i < kept; ++i) indices(t, static_cast<Index>(i)) = candidates[i].second;
        std::sort(&indices(t, 0), &indices(t, 0) + kept);''',
            '''        Index ties = 0;
        for (const auto& c : candidates) ties += kept > 0 && c.first == candidates[kept - 1].first ? 1 : 0;
        const bool overflow = kept < candidates.size() && ties > 256;
        const double last = kept > 0 ? candidates[kept - 1].first : 0.0;
        Index used = 0;
        for (std::size_t i = 0; i < kept; ++i)
            if (!overflow || candidates[i].first > last) indices(t, used++) = candidates[i].second;
        std::sort(&indices(t, 0), &indices(t, 0) + used);''',
        ),
    )

    def chosen(self, scores, k):
        best = super().chosen(scores, k)
        if len(scores) <= k:
            return best
        last = scores[best[-1]]
        return best[scores[best] > last] if (scores == last).sum() > 256 else best
