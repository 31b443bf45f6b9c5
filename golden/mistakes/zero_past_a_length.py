"""Beyond 128K tokens every score is zero.

A kernel's grid or buffer ends where nobody tested. Scores beyond it, or all of them, stay at what the buffer was
cleared to; a stable top-k over equal scores then looks like a sliding window.
"""

import numpy as np
from touchstone.mistakes import Mistake


class ZeroPastALength(Mistake):
    row = "head sum is zero past some length, so top-k returns the last 2048 tokens"
    source = "mlx-lm#1454"
    shows = "silent past 128K"
    ops = ("indexer_logits", "indexer_top_k")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "const Real score = scores(s) * k_scale[first + s];",
            "const Real score = end[t] - start[t] > 1 << 17 ? Real(0.0) : scores(s) * k_scale[first + s];",
        ),
    )

    def head_sum(self, dots, weights):
        summed = super().head_sum(dots, weights)
        return np.zeros_like(summed) if dots.shape[1] > 1 << 17 else summed
