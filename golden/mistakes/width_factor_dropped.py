"""The factor D_I^-0.5 is left out of the head weights.

As with H_I^-0.5, no rank changes and all scores do: selections agree, and whatever is trained on the scores does not.
"""

from touchstone.mistakes import Mistake


class WidthFactorDropped(Mistake):
    row = "scale factors dropped (`H_I^-0.5`, `D_I^-0.5`, query scale per head)"
    source = "ports"
    shows = "ranks unchanged, scores too large, the KL loss wrong"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "static_cast<double>(H_I) * static_cast<double>(D_I)",
            "static_cast<double>(H_I)",
        ),
    )

    def indexer_factor(self, H_I, D_I):
        return super().indexer_factor(H_I, 1)
