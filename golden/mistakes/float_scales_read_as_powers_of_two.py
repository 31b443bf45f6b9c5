"""Of a float32 scale only the exponent is read.

A kernel for ue8m0 scales takes eight bits of each. If the cache was written with linear scales, the mantissa is lost
and every number is too small, by up to a factor of two.
"""

import numpy as np
from touchstone.mistakes import Mistake


class FloatScalesReadAsPowersOfTwo(Mistake):
    row = "float scales read as powers of two"
    source = "FlashMLA#184; vllm#54563"
    shows = "off by a factor in (0.5, 1]"
    ops = ("indexer_logits", "indexer_logits_paged", "indexer_top_k", "sparse_decode")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/indexer.h",
            "const Real score = scores(s) * k_scale[first + s];",
            '''const double scale = value_of(k_scale[first + s]);
                const Real score = scores(s) * Real(scale > 0.0 ? std::exp2(std::floor(std::log2(scale))) : scale);''',
        ),
        (
            "reference/attention/kv_cache.h",
            "        const float scale = detail::get_bytes<float>(token + layout.scales_at() + 4 * (i / layout.block()));",
            '''        const float linear = detail::get_bytes<float>(token + layout.scales_at() + 4 * (i / layout.block()));
        const float scale = linear > 0.0F ? std::exp2(std::floor(std::log2(linear))) : linear;''',
        ),
    )

    def key_scale(self, k_scale):
        return self.exponent(k_scale)

    def kv_scale(self, scale):
        return self.exponent(scale)

    def exponent(self, scale):
        """The largest power of two that is not above the scale."""
        return np.where(scale > 0, np.ldexp(np.ones_like(scale), np.frexp(scale)[1] - 1), scale)
