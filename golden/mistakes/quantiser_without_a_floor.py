"""The scale of a block has no floor: a block of zeros is divided by zero.

Padding tokens are zero, and 0 / 0 is NaN. One NaN score ranks first in a radix select and one NaN probability makes
the whole row NaN.
"""

from touchstone.mistakes import Mistake


class QuantiserWithoutAFloor(Mistake):
    row = "all-zero block gives scale 0, then NaN"
    source = "SGLang's first quantiser"
    shows = "NaN logits"
    ops = ("act_quant", "pack_kv_pages")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/attention/quantize.h",
            "return value_of(x) < floor ? Real(floor) : x;",
            "return floor < 0.0 ? Real(floor) : x;",
        ),
    )

    def scale_floor(self, amax, quantizer):
        return amax / self.tier.real(448)
