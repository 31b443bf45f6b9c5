"""The indexer's scale carries YaRN's factor, which belongs to MLA's softmax alone.

m^2 corrects the temperature of a softmax. The indexer has none at inference, so no rank changes; its training loss
has, and is 1.87 times too sharp.
"""

from touchstone.mistakes import Mistake


class YarnFactorInTheIndexer(Mistake):
    row = "indexer's YaRN factor applied to its scale"
    source = "ports"
    shows = "ranks unchanged, KL loss wrong"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "if (conventions.yarn_mscale_in_indexer) factor",
            "if (true) factor",
        ),
    )

    def indexer_factor(self, H_I, D_I):
        return (H_I * D_I) ** -0.5 * self.yarn_mscale() ** 2
