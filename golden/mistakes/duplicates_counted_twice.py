"""A position that the selection names twice counts twice in the softmax.

A selection is a set. Merging the results of two devices, or a local window with a global choice, names some positions
twice.
"""

import numpy as np
from touchstone.mistakes import Mistake


class DuplicatesCountedTwice(Mistake):
    row = "duplicate indices counted twice in the softmax"
    source = "ports"
    shows = "some tokens weigh double"
    ops = ("sparse_prefill", "sparse_decode", "attention_target", "indexer_kl_loss", "sparse_attention_backward")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/sparse_attention.h",
            " || seen[static_cast<std::size_t>(s)]) continue;",
            ") continue;",
        ),
    )

    def selected(self, indices, S):
        return indices[(indices >= 0) & (indices < S)]

    def slots_of(self, indices, positions):
        return np.flatnonzero(np.isin(indices, positions))
