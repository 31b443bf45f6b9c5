"""The factor H_I^-0.5 is left out of the head weights.

A positive factor common to all scores changes no rank, so selection tests pass. The training loss, which takes a
softmax of the scores, is of another temperature.
"""

from touchstone.mistakes import Mistake


class HeadFactorDropped(Mistake):
    row = "scale factors dropped (`H_I^-0.5`, `D_I^-0.5`, query scale per head)"
    source = "ports"
    shows = "ranks unchanged, scores too large, the KL loss wrong"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "static_cast<double>(H_I) * static_cast<double>(D_I)",
            "static_cast<double>(D_I)",
        ),
    )

    def indexer_factor(self, H_I, D_I):
        return super().indexer_factor(1, D_I)
