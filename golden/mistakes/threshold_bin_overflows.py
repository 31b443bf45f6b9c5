"""The bin of the k-th score is kept in a buffer of 2048, and what does not fit is dropped.

A radix select histograms the leading bits of the scores, takes all bins above the threshold bin, and sorts out the
threshold bin itself in shared memory. Scores that are much alike crowd into one bin; the buffer fills in the order of
arrival, not of rank.
"""

import numpy as np
from touchstone.mistakes import Mistake


class ThresholdBinOverflows(Mistake):
    row = "the threshold bin overflows a fixed buffer and true winners are dropped, silently"
    source = "sglang#35257, #36807; vllm#51782"
    shows = "recall down to 0.5 on long rows, only with many near-equal scores"
    ops = ("top_k",)
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/top_k.h",
            "        const auto kept = std::min",
            '''        const auto key = [](double score) {
            const float narrow = static_cast<float>(score);
            std::uint32_t bits = 0;
            std::memcpy(&bits, &narrow, sizeof bits);
            return (bits >> 31 != 0 ? ~bits : bits | 0x80000000U) >> 21;
        };
        if (candidates.size() > static_cast<std::size_t>(k)) {
            auto sorted = candidates;
            std::sort(sorted.begin(), sorted.end(), [](auto& a, auto& b) { return a.first > b.first; });
            const std::uint32_t threshold = key(sorted[static_cast<std::size_t>(k) - 1].first);
            std::size_t inside = 0;
            std::erase_if(candidates, [&](const auto& c) {
                return key(c.first) < threshold || (key(c.first) == threshold && ++inside > 2048);
            });
        }
        const auto kept = std::min''',
        ),
    )

    BUFFER = 2048

    def chosen(self, scores, k):
        if len(scores) <= k:
            return super().chosen(scores, k)
        bits = scores.astype(np.float32).view(np.uint32)
        key = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # a whole number in the order of the score
        bins = key >> np.uint32(21)
        counts = np.bincount(bins, minlength=1 << 11)[::-1].cumsum()[::-1]  # how many are in a bin or above it
        threshold = np.flatnonzero(counts >= k)[-1]
        above, inside = np.flatnonzero(bins > threshold), np.flatnonzero(bins == threshold)[: self.BUFFER]
        best = inside[self.ranked(scores[inside])[: k - len(above)]]
        return np.concatenate([above, best])
