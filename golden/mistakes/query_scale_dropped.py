"""The quantisation scale of each query head is not folded into its weight.

If all heads had the same scale no rank would change. They have not: a head with large numbers loses its say.
"""

from touchstone.mistakes import Mistake


class QueryScaleDropped(Mistake):
    row = "scale factors dropped (`H_I^-0.5`, `D_I^-0.5`, query scale per head)"
    source = "ports"
    shows = "ranks unchanged for uniform scales, wrong otherwise"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "in.weights[i] *= q.scale[i];",
            "(void)q.scale[i];",
        ),
    )

    def folded_query_scale(self, weights, q_scale):
        return weights
