"""`start` is read as `end`, and `end` as `start`.

Both are int32 arrays of the same length. A call with the two exchanged compiles, runs, and finds no candidate at all.
"""

from touchstone.mistakes import Mistake


class PackedStartAndEndSwapped(Mistake):
    row = "`start`/`end` offsets of packed sequences swapped or off by one"
    source = "sglang#12583"
    shows = "rows without a candidate"
    ops = ("indexer_logits", "top_k", "indexer_top_k", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "for (Index first = start[t]; first < end[t]; first += chunk) {",
            "for (Index first = end[t]; first < start[t]; first += chunk) {",
        ),
        (
            "reference/attention/indexer.h",
            "std::min<Index>(chunk, end[t] - first)",
            "std::min<Index>(chunk, start[t] - first)",
        ),
        (
            "reference/attention/top_k.h",
            "for (std::int32_t s = start[t]; s < end[t]; ++s) {",
            "for (std::int32_t s = end[t]; s < start[t]; ++s) {",
        ),
    )

    def range_of(self, start, end, S):
        return end, start
