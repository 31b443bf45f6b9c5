"""Slots beyond the number of candidates hold 0 instead of -1.

Memory from an allocator is often zero, and position 0 is a valid token: the first token is attended to in place of
none, or counted again.
"""

import numpy as np
from touchstone.mistakes import Mistake


class UnusedSlotsLeft(Mistake):
    row = "fewer candidates than k: slots left uninitialised"
    source = "several"
    shows = "random tokens in short prompts"
    ops = ("top_k", "indexer_top_k", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/top_k.h",
            "indices({logits.dim(0), k}, -1);",
            "indices({logits.dim(0), k}, 0);",
        ),
    )

    def slots(self, positions, k):
        row = super().slots(positions, k)
        return np.where(row == -1, 0, row).astype(np.int32)
