"""Each query's candidates include the position at `end`.

Whether an end is the last index or one past it is a matter of convention. Here it is one past it; read as the last,
every query sees one token of the future, or of the next request.
"""

import numpy as np
from touchstone.mistakes import Mistake


class PackedEndOffByOne(Mistake):
    row = "`start`/`end` offsets of packed sequences swapped or off by one"
    source = "sglang#12583"
    shows = "attends to another request; causal leak"
    ops = ("indexer_logits", "indexer_logits_paged", "top_k", "indexer_top_k", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            '''        for (Index first = start[t]; first < end[t]; first += chunk) {
            const Index count = std::min<Index>(chunk, end[t] - first);''',
            '''        const Index last = std::min<Index>(end[t] + 1, S);
        for (Index first = start[t]; first < last; first += chunk) {
            const Index count = std::min<Index>(chunk, last - first);''',
        ),
        (
            "reference/attention/top_k.h",
            "s < end[t]; ++s) {",
            "s < end[t] + 1 && s < logits.dim(1); ++s) {",
        ),
    )

    def range_of(self, start, end, S):
        return start, np.minimum(end + 1, S)
