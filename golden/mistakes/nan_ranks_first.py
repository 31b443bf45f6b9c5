"""A NaN score ranks above all others.

A radix select compares bits, and the bits of NaN are above those of infinity. One bad token is then selected by every
query.
"""

import numpy as np
from touchstone.mistakes import Mistake


class NanRanksFirst(Mistake):
    row = "NaN score ranks as largest"
    source = "radix selects on raw bits"
    shows = "NaN spreads through the whole sequence"
    ops = ("top_k",)
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/top_k.h",
            "score = -std::numeric_limits<double>::infinity();",
            "score = std::numeric_limits<double>::infinity();",
        ),
    )

    def nan_as(self, scores, t, first):
        return np.where(np.isnan(scores), np.inf, scores)
