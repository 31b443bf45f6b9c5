"""The indexer reads the query latent before its RMSNorm.

c_q is at hand under the same name before and after its norm. The norm's weight is close to one and its scale is
common to all heads, so ranks barely move.
"""

from touchstone.mistakes import Mistake


class IndexerBeforeTheNorm(Mistake):
    row = "indexer fed the query latent before its RMSNorm"
    source = "slime#2165"
    shows = "ranks change a little"
    ops = ("dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/model/attention_block.h",
            "indexer_projection(x, mla.c_q, positions",
            "indexer_projection(x, linear(x, w.mla.W_dq, conventions), positions",
        ),
    )

    def indexer_c_q(self, mla):
        return mla["raw_c_q"]
