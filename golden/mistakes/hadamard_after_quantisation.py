"""Vectors are quantised first and multiplied by the Hadamard matrix afterwards.

The outliers have done their harm by then: what the rotation spreads is the rounding error.
"""

from touchstone.mistakes import Mistake


class HadamardAfterQuantisation(Mistake):
    row = "Hadamard after quantisation, or missing before it"
    source = "vllm#55459"
    shows = "small loss of recall, only with outliers"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "        out.q = hadamard(std::move(out.q));",
            "        out.q = hadamard(dequantized(quantize(out.q, conventions.quantizer, conventions.scale_format, D_I)));",
        ),
        (
            "reference/attention/indexer.h",
            "        out.k = hadamard(std::move(out.k));",
            "        out.k = hadamard(dequantized(quantize(out.k, conventions.quantizer, conventions.scale_format, D_I)));",
        ),
    )

    def indexer_hadamard_query(self, q):
        return super().indexer_hadamard_query(self.rounded(q))

    def indexer_hadamard_key(self, k):
        return super().indexer_hadamard_key(self.rounded(k))

    def rounded(self, x):
        """x through e4m3 and back, where a Hadamard matrix follows."""
        if not self.conventions["hadamard"]:
            return x
        return self.dequantize(*self.quantize(x, self.conventions["quantizer"], x.shape[-1]))
