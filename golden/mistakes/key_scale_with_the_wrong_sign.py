"""The key's scale is applied before ReLU, with the wrong sign.

A positive scale may be moved through ReLU; a negative one may not. Folding a minus sign into the scale keeps exactly
the dots that should have been dropped.
"""

from touchstone.mistakes import Mistake


class KeyScaleWithTheWrongSign(Mistake):
    row = "key scale applied before ReLU with the wrong sign or block"
    source = "ports"
    shows = "the most unlike tokens are selected"
    ops = ("indexer_logits", "indexer_logits_paged", "indexer_top_k", "indexer_kl_loss", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "scores(s) += weight * relu(dots(j, s));",
            "scores(s) += weight * relu(-dots(j, s));",
        ),
        (
            "reference/training/indexer_kl_loss.h",
            "score += weights(t, j) * relu(dots(j, s));",
            "score += weights(t, j) * relu(-dots(j, s));",
        ),
    )

    def head_sum(self, dots, weights):
        return self.head_weights(weights) @ self.relu(-dots)
