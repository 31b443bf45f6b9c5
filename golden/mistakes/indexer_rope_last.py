"""The indexer's rope turns the last 64 numbers of a vector instead of the first.

MLA keeps its rotated part last, the indexer keeps it first. A port that copies MLA's slicing rotates numbers that
were never trained to be rotated.
"""

import numpy as np
from touchstone.mistakes import Mistake


class IndexerRopeLast(Mistake):
    row = "rope dims taken last instead of first in the indexer (or first in MLA)"
    source = "ports"
    shows = "selection near random"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "out.q.row(t, j).head(d_rope)",
            "out.q.row(t, j).tail(d_rope)",
        ),
        (
            "reference/attention/indexer.h",
            "out.k.row(t).head(d_rope)",
            "out.k.row(t).tail(d_rope)",
        ),
    )

    def indexer_rope(self, x, positions, d_rope):
        still = x.shape[-1] - d_rope
        turned = self.rope(x[..., still:], positions, self.indexer_rope_layout())
        return np.concatenate([x[..., :still], turned], axis=-1)
