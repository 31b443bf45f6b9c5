"""Each query's candidates begin at position 0, whatever `start` says.

With one sequence a batch, `start` is 0 and nothing happens. With packed sequences a query reads its neighbour's text.
"""

import numpy as np
from touchstone.mistakes import Mistake


class PackedStartIgnored(Mistake):
    row = "`start`/`end` offsets of packed sequences swapped or off by one"
    source = "sglang#12583"
    shows = "attends to another request"
    ops = ("indexer_logits", "top_k", "indexer_top_k", "dsa_attention")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "for (Index first = start[t];",
            "for (Index first = 0 * start[t];",
        ),
        (
            "reference/attention/top_k.h",
            "for (std::int32_t s = start[t];",
            "for (std::int32_t s = 0 * start[t];",
        ),
    )

    def range_of(self, start, end, S):
        return np.zeros_like(start), end
