"""The byte offset of a cached token is computed in 32 bits.

656 bytes a token pass 2^31 at slot 3 273 604. An int that overflows points before the cache, where this variant,
being polite, reads token 0.
"""

import numpy as np
from touchstone.mistakes import Mistake


class OffsetsIn32Bits(Mistake):
    row = "offsets overflow 32 bits on big caches"
    source = "several"
    shows = "illegal access beyond 2^31 bytes"
    ops = ("sparse_decode",)
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/kv_cache.h",
            "    const std::uint8_t* token = pages.data() + slot * layout.bytes();",
            "    const std::uint8_t* token = pages.data() + (slot * layout.bytes() < Index{1} << 31 ? slot * layout.bytes() : 0);",
        ),
    )

    def token_of(self, slots, bytes_each):
        return np.where(slots * bytes_each < 1 << 31, slots, 0)
