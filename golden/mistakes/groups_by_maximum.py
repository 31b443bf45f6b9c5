"""A group of experts is scored by its best instead of its two best.

The released code has both rules: the maximum where there is no bias, the sum of the two best where there is one.
Copying the wrong branch keeps groups with one strong expert.
"""

import numpy as np
from touchstone.mistakes import Mistake


class GroupsByMaximum(Mistake):
    row = "router bias added to the weights, not only to the choice; groups scored by maximum instead of top-2 sum"
    source = "ports"
    shows = "other experts are visited"
    ops = ("moe_gate", "moe", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/moe/gate.h",
            "conventions.gate_bias ? std::min<Index>(2, group_size) : 1;",
            "std::min<Index>(1, group_size);",
        ),
    )

    def group_scores(self, biased):
        return biased.astype(np.float64).max(axis=-1)
