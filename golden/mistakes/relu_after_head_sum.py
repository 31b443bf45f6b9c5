"""ReLU is applied to the weighted sum of the heads instead of to each head.

The formula's brackets are easily misread. ReLU after the sum clamps positions that the heads together vote against,
and lets negative dots of single heads through.
"""

from touchstone.mistakes import Mistake


class ReluAfterHeadSum(Mistake):
    row = "ReLU missing, or applied after the head sum"
    source = "transformers#44360, #44364"
    shows = "negative dots leak in; no score is below zero"
    ops = ("indexer_logits", "indexer_logits_paged", "indexer_top_k", "indexer_kl_loss", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "scores(s) += weight * relu(dots(j, s));",
            "scores(s) += weight * dots(j, s);",
        ),
        (
            "reference/attention/indexer.h",
            "const Real score = scores(s) * k_scale[first + s];",
            "const Real score = relu(Real(scores(s))) * k_scale[first + s];",
        ),
        (
            "reference/training/indexer_kl_loss.h",
            "score += weights(t, j) * relu(dots(j, s));",
            "score += weights(t, j) * dots(j, s);",
        ),
        (
            "reference/training/indexer_kl_loss.h",
            "            scores(s) = score;",
            "            scores(s) = relu(score);",
        ),
    )

    def head_sum(self, dots, weights):
        return self.relu(self.head_weights(weights) @ dots)
