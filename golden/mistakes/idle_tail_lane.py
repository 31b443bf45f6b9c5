"""The idle lanes of the last tile of 64 take part in the selection with score 0.

A tile's accumulators begin at zero. Where the row ends inside a tile and scores are negative, nothing beats nothing.
"""

import numpy as np
from touchstone.mistakes import Mistake


class IdleTailLane(Mistake):
    row = "an idle tail lane of a tile counted as a candidate"
    source = "cudnn-frontend#446"
    shows = "-1 or garbage among the winners"
    ops = ("top_k", "indexer_top_k")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/top_k.h",
            "        const auto better =",
            '''        for (std::int32_t s = end[t]; (s - start[t]) % 64 != 0; ++s) candidates.emplace_back(0.0, s);
        const auto better =''',
        ),
    )

    def chosen(self, scores, k):
        idle = -len(scores) % 64
        return super().chosen(np.concatenate([scores, np.zeros(idle)]), k)
