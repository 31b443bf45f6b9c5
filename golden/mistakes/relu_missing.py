"""The head dots are summed without ReLU.

Without ReLU the indexer is one bilinear form: all heads could be merged into one. A head whose dot is negative then
votes against a position instead of abstaining.
"""

from touchstone.mistakes import Mistake


class ReluMissing(Mistake):
    row = "ReLU missing, or applied after the head sum"
    source = "transformers#44360, #44364"
    shows = "negative dots leak in; ranks change"
    ops = ("indexer_logits", "indexer_logits_paged", "indexer_top_k", "indexer_kl_loss", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "scores(s) += weight * relu(dots(j, s));",
            "scores(s) += weight * dots(j, s);",
        ),
        (
            "reference/training/indexer_kl_loss.h",
            "score += weights(t, j) * relu(dots(j, s));",
            "score += weights(t, j) * dots(j, s);",
        ),
    )

    def head_sum(self, dots, weights):
        return self.head_weights(weights) @ dots
