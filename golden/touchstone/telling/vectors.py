"""What happens to one vector at a time: norms, rotations, the Hadamard transform, quantisation.

Spec sections 2 and 3.
"""

from __future__ import annotations

import math

import numpy as np

from .. import require

BLOCK = 128  # numbers that share one scale
ROPE = {"theta": 10000.0, "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_context": 4096,
        "max_context": 163840, "mscale": 1.0}  # fmt: skip


def block_for(width: int) -> int:
    """The block for a last axis of `width`: 128, or all of it in tiny models."""
    return min(width, BLOCK)


class Vectors:
    """Ops on the last axis. `self.tier`, `self.conventions` and `self.parameters` are Telling's."""

    def rms_norm(self, x, weight):
        """x * rsqrt(mean(x^2) + eps) * weight. x [..., D], weight [D] -> [..., D], stored as bf16"""
        real = self.tier.real
        mean_square = np.mean(x * x, axis=-1, keepdims=True, dtype=real)
        return self.tier.bf16(x * (real(1) / np.sqrt(mean_square + real(self.eps))) * weight)

    def layer_norm(self, x, weight, bias):
        """(x - mean) * rsqrt(variance + eps) * weight + bias. x [..., D] -> [..., D], stored as bf16"""
        real = self.tier.real
        centred = x - np.mean(x, axis=-1, keepdims=True, dtype=real)
        variance = np.mean(centred * centred, axis=-1, keepdims=True, dtype=real)
        return self.tier.bf16(centred * (real(1) / np.sqrt(variance + real(self.eps))) * weight + bias)

    @property
    def rope_parameters(self) -> dict:
        """The case's rope parameters over V3.2's."""
        given = self.parameters.get("rope", {})
        for key in given:
            require(key in ROPE, f'rope has no entry named "{key}"; it has {", ".join(ROPE)}')
        return ROPE | given

    @property
    def uses_yarn(self) -> bool:
        """YaRN stretches contexts that are longer than the original."""
        p = self.rope_parameters
        return p["max_context"] > p["original_context"] and p["factor"] > 1

    def rope_frequencies(self, d_rope: int) -> np.ndarray:
        """Radians a position, one a pair: theta^(-2i/d), slowed by YaRN's ramp. -> float64 [d_rope / 2]"""
        p = self.rope_parameters
        i = np.arange(d_rope // 2, dtype=np.float64)
        f = p["theta"] ** (-2 * i / d_rope)
        if not self.uses_yarn:
            return f

        def correction(rotations: float) -> float:
            return d_rope * math.log(p["original_context"] / (2 * math.pi * rotations)) / (2 * math.log(p["theta"]))

        low = min(max(math.floor(correction(p["beta_fast"])), 0), d_rope - 1)
        high = min(max(math.ceil(correction(p["beta_slow"])), 0), d_rope - 1)
        if high == low:
            high += 0.001
        ramp = np.clip((i - low) / (high - low), 0, 1)
        return f / p["factor"] * ramp + f * (1 - ramp)

    def yarn_mscale(self) -> float:
        """m = 0.1 mscale ln(factor) + 1 with YaRN, else 1."""
        p = self.rope_parameters
        return 0.1 * p["mscale"] * math.log(p["factor"]) + 1 if self.uses_yarn else 1.0

    def softmax_scale(self, d_nope: int, d_rope: int) -> float:
        """MLA's scale, (d_nope + d_rope)^-0.5 m^2, unless the case gives one."""
        given = self.parameters.get("scale")
        return given if given is not None else (d_nope + d_rope) ** -0.5 * self.yarn_mscale() ** 2

    def rope(self, x, positions, layout: str, output_layout: str | None = None):
        """Turns pairs by position x frequency. x [T, ..., d_rope], positions [T] -> same shape, stored as bf16

        Pair i is (2i, 2i + 1) if `interleaved`, (i, i + d_rope / 2) if `half_split`.
        """
        real = self.tier.real
        d_rope = x.shape[-1]
        require(d_rope % 2 == 0, f"rope turns pairs: the rotated size must be even; got {d_rope}")
        angles = positions.astype(real)[:, None] * self.rope_frequencies(d_rope).astype(real)  # [T, d_rope / 2]
        angles = angles.reshape(len(positions), *[1] * (x.ndim - 2), d_rope // 2).astype(np.float64)
        cosine, sine = np.cos(angles).astype(real), np.sin(angles).astype(real)
        places = {
            "interleaved": (np.arange(0, d_rope, 2), np.arange(1, d_rope, 2)),
            "half_split": (np.arange(d_rope // 2), np.arange(d_rope // 2, d_rope)),
        }
        first, second = places[layout]
        a, b = x[..., first], x[..., second]
        y = np.empty_like(x)
        first, second = places[output_layout or layout]
        y[..., first] = a * cosine - b * sine
        y[..., second] = a * sine + b * cosine
        return self.tier.bf16(y)

    def hadamard(self, x):
        """x H / sqrt(n), H the Walsh-Hadamard matrix in natural order. x [..., n] -> [..., n], stored as bf16"""
        n = x.shape[-1]
        require(n > 0 and n & (n - 1) == 0, f"hadamard: the last axis must be a power of two; got {n}")
        i = np.arange(n)
        ones_in_common = np.array([bin(v).count("1") for v in range(n)])[i[:, None] & i]  # H_ij = (-1)^popcount(i & j)
        matrix = (1 - 2 * (ones_in_common % 2)).astype(self.tier.real)
        return self.tier.bf16((x @ matrix) * self.tier.real(n**-0.5))

    def scale_floor(self, amax, quantizer: str):
        """The linear scale of blocks whose largest magnitude is amax, by each quantiser's floor. Spec section 9."""
        real = self.tier.real
        if quantizer == "flashmla":
            return np.maximum(amax / real(448), real(1e-4))
        floor = {"deepseek": 1e-4, "vllm": 2.0**-126, "no_floor": 0.0}[quantizer]
        return np.maximum(amax, real(floor)) / real(448)

    def scale_format(self, scale):
        """Linear, or the smallest power of two that is not below it."""
        if self.conventions["scale_format"] == "float32":
            return scale
        fraction, exponent = np.frexp(scale)
        power = np.where(fraction == 0.5, exponent - 1, exponent)
        return np.where(scale == 0, scale, np.ldexp(np.ones_like(scale), np.maximum(power, -127)))

    def quantize(self, x, quantizer: str, block: int):
        """e4m3 values and one scale a block. x [..., N] -> values [..., N], scale [..., N / block]

        The exact tier does not quantise: its scales are 1.
        """
        *lead, n = x.shape
        require(block > 0 and n % block == 0, f"the last axis must be a multiple of the block of {block}; got {n}")
        blocks = x.reshape(*lead, n // block, block)
        ones = np.ones((*lead, n // block), self.tier.real)
        if quantizer == "none" or not self.tier.quantises:
            return x, ones
        amax = np.max(np.abs(blocks), axis=-1) if x.size else ones
        scale = self.scale_format(self.scale_floor(amax, quantizer)).astype(self.tier.real)
        return self.tier.e4m3(blocks, scale[..., None]).reshape(x.shape), scale

    def dequantize(self, values, scale):
        """values [..., N] * scale [..., N / block] -> [..., N]"""
        blocks = values.reshape(*scale.shape, values.shape[-1] // scale.shape[-1])
        return (blocks * scale[..., None]).reshape(values.shape)
