"""The head weights go through a softmax over the heads.

Attention-like intuition: weights should be positive and sum to one. The indexer's may be negative, and their size
carries the query's scale.
"""

from touchstone.mistakes import Mistake


class SoftmaxOverHeadWeights(Mistake):
    row = "softmax over head weights"
    source = "early teaching notebook"
    shows = "smooth but wrong ranks"
    ops = ("indexer_logits", "indexer_logits_paged", "indexer_top_k", "indexer_kl_loss", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "                const Real weight = weights(t, j);",
            '''                Real total(0.0);
                for (Index i = 0; i < H_I; ++i) total += exp(Real(weights(t, i)));
                const Real weight = exp(Real(weights(t, j))) / total;''',
        ),
    )

    def head_weights(self, weights):
        return self.softmax(weights)
