"""The query is multiplied by the Hadamard matrix, the key is not.

The rotation is free because both sides are rotated. If the cache was filled by a kernel without it, queries and keys
live in two different bases.
"""

from touchstone.mistakes import Mistake


class HadamardOnTheQueryOnly(Mistake):
    row = "Hadamard on the query but not on the key"
    source = "ATOM#1507"
    shows = "garbage selection"
    ops = ("indexer_project", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "        out.k = hadamard(std::move(out.k));",
            "        (void)out.k;",
        ),
    )

    def indexer_hadamard_key(self, k):
        return k
