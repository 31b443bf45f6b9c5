"""The indexer's rope turns neighbours, (2i, 2i + 1), instead of (i, i + 32).

MLA's rope is interleaved and the indexer's is not. Using one function for both is the natural thing to do, and wrong.
Queries and keys agree with each other, so every score stays plausible; only distances beyond a few tokens are
measured wrongly.
"""

from touchstone.mistakes import Mistake


class IndexerRopeInterleaved(Mistake):
    row = "indexer RoPE interleaved instead of half-split"
    source = "DeepSeek-V3.2-Exp's demo until 2025-11-17; vllm#28968; sglang#13530"
    shows = "short contexts fine, long-context recall falls"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "turn.rotate(out.q.row(t, j).head(d_rope), t, conventions.indexer_rope)",
            "turn.rotate(out.q.row(t, j).head(d_rope), t, conventions.indexer_rope == RopeLayout::interleaved ? RopeLayout::half_split : RopeLayout::interleaved)",
        ),
        (
            "reference/attention/indexer.h",
            "turn.rotate(out.k.row(t).head(d_rope), t, conventions.indexer_rope)",
            "turn.rotate(out.k.row(t).head(d_rope), t, conventions.indexer_rope == RopeLayout::interleaved ? RopeLayout::half_split : RopeLayout::interleaved)",
        ),
    )

    def indexer_rope_layout(self):
        return {"half_split": "interleaved", "interleaved": "half_split"}[self.conventions["indexer_rope"]]
