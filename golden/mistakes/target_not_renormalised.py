"""The KL target on the selected set does not sum to one.

Restricted to the selected positions, the full softmax sums to less than one. The missing mass pulls every score down.
"""

from touchstone.mistakes import Mistake


class TargetNotRenormalised(Mistake):
    row = "target of the KL loss averaged before softmax, or not renormalised on the selected set; gradient leaking into the main model"
    source = "Megatron-LM#7157"
    shows = "the indexer trains, to the wrong thing"
    ops = ("attention_target", "indexer_kl_loss")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/training/attention_target.h",
            "        const Real total = ordered_sum(on_set);",
            "        const Real total = static_cast<Real>(static_cast<double>(q.dim(1)));",
        ),
    )

    def attention_target(self, q, kv, indices, scale):
        self.heads = q.shape[1]
        return super().attention_target(q, kv, indices, scale)

    def normalised_target(self, p):
        return p / self.tier.real(self.heads)
