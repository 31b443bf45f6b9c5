"""Nothing is multiplied by the Hadamard matrix before it is quantised.

In exact arithmetic leaving it out changes nothing, which is why tests on smooth random numbers pass. With outliers,
one coordinate sets the scale of its vector and the others lose their bits.
"""

from touchstone.mistakes import Mistake


class HadamardMissing(Mistake):
    row = "Hadamard after quantisation, or missing before it"
    source = "vllm#55459"
    shows = "small loss of recall, only with outliers"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "if (conventions.hadamard) {",
            "if (false) {",
        ),
    )

    def indexer_hadamard_query(self, q):
        return q

    def indexer_hadamard_key(self, k):
        return k
