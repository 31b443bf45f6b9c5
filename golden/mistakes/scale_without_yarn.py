"""The softmax scale lacks YaRN's factor m^2.

(d_nope + d_rope)^-0.5 alone is 0.072; the model was trained with 0.135. Every distribution is flatter than it should
be.
"""

import math

from touchstone.mistakes import Mistake


class ScaleWithoutYarn(Mistake):
    row = "softmax scale without the YaRN factor"
    source = "ports"
    shows = "1.87x too cold"
    ops = ("sparse_prefill", "sparse_decode", "dense_attention", "attention_target", "sparse_attention_backward", "dsa_attention", "transformer_block")
    # The same mistake in C++: (file, what stands there, what stands there by mistake).
    reference = (
        (
            "reference/ops/attention.cpp",
            'double scale_of(const OpInputs& in) { return in.number("scale", softmax_scale(RopeParameters{}, 128, 64)); }',
            'double scale_of(const OpInputs& in) { return in.number("scale", softmax_scale(RopeParameters{}, 128, 64)) / 1.8738542070926265; }',
        ),
        (
            "reference/ops/training.cpp",
            'double scale_of(const OpInputs& in) { return in.number("scale", softmax_scale(RopeParameters{}, 128, 64)); }',
            'double scale_of(const OpInputs& in) { return in.number("scale", softmax_scale(RopeParameters{}, 128, 64)) / 1.8738542070926265; }',
        ),
        (
            "reference/model/attention_block.h",
            "indices, settings.scale, w.mla.R_kv()",
            "indices, settings.scale / 1.8738542070926265, w.mla.R_kv()",
        ),
    )

    def softmax_scale(self, d_nope, d_rope):
        return super().softmax_scale(d_nope, d_rope) / (0.1 * math.log(40) + 1) ** 2
