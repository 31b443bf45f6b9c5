"""Each score is multiplied by the scale of the next key.

Scales lie in an array of their own; being off by one there is invisible as long as neighbouring keys have equal
scales, as they often have with powers of two.
"""

import numpy as np
from touchstone.mistakes import Mistake


class KeyScaleOfTheNextKey(Mistake):
    row = "key scale applied before ReLU with the wrong sign or block"
    source = "ports"
    shows = "wrong ranks where neighbouring scales differ"
    ops = ("indexer_logits", "indexer_logits_paged", "indexer_top_k", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "const Real score = scores(s) * k_scale[first + s];",
            "const Real score = scores(s) * k_scale[std::min<Index>(first + s + 1, S - 1)];",
        ),
    )

    def key_scale(self, k_scale):
        return np.append(k_scale[1:], k_scale[-1:])
