// How do vectors become 8-bit numbers? A block of values shares one scale, chosen so that the largest of
// them just fits e4m3; each value is divided by it and rounded. spec sections 3 and 9.
#pragma once

#include "reference/conventions.h"
#include "reference/numerics/precision.h"

namespace dsa {

inline constexpr Index quantization_block = 128;

// values * scale is what was quantised. In Deployed the values are e4m3 numbers; in the exact tiers nothing
// is quantised, and every scale is 1.
template <class P>
struct Quantized {
    Tensor<P> values;  // [..., N]
    Tensor<P> scale;   // [..., N / block]
};

// The scale of a block whose largest magnitude is `amax`.
template <class Real>
Real block_scale(Real amax, Quantizer quantizer, ScaleFormat format) {
    const Real largest(static_cast<double>(e4m3_max));
    const auto floored = [](Real x, double floor) { return value_of(x) < floor ? Real(floor) : x; };
    Real scale(1.0);
    switch (quantizer) {
        case Quantizer::deepseek: scale = floored(amax, 1e-4) / largest; break;
        case Quantizer::flashmla: scale = floored(amax / largest, 1e-4); break;
        case Quantizer::vllm: scale = floored(amax, smallest_normal_float32) / largest; break;
        case Quantizer::no_floor: scale = amax / largest; break;
        case Quantizer::none: return Real(1.0);
    }
    if (format == ScaleFormat::ue8m0 && value_of(scale) != 0.0) {
        const float power = to_float(to_ue8m0_rounding_up(static_cast<float>(value_of(scale))));
        if constexpr (requires(Real x) { x.error; })
            return {power, power};  // an amax that is off by a little may end at the next power
        else
            return Real(static_cast<double>(power));
    }
    return scale;
}

// x: [..., N], N a multiple of `block`  -> values [..., N], scale [..., N / block]
template <class P>
Quantized<P> quantize(const Tensor<P>& x, Quantizer quantizer, ScaleFormat format, Index block = quantization_block) {
    using Real = typename P::Real;
    require(block > 0 && x.cols() % block == 0, "quantize: the last axis must be a multiple of the block of ", block,
            "; got ", x.cols());
    Shape scale_shape = x.shape();
    scale_shape.back() = x.cols() / block;
    Quantized<P> result{x, Tensor<P>(scale_shape, Real(1.0))};
    if (quantizer == Quantizer::none) return result;
    for (Index b = 0; b < x.size() / block; ++b) {
        Real amax(0.0);
        for (Index i = b * block; i < (b + 1) * block; ++i)
            if (value_of(amax) < value_of(abs(x[i]))) amax = abs(x[i]);
        const Real scale = block_scale(amax, quantizer, format);
        for (Index i = b * block; i < (b + 1) * block; ++i) result.values[i] = P::e4m3(x[i], scale);
        if (P::quantises) result.scale[b] = scale;
    }
    return result;
}

// values * scale: what a reader of the quantised tensor sees. -> [..., N]
template <class P>
Tensor<P> dequantized(const Quantized<P>& q) {
    Tensor<P> x = q.values;
    const Index block = q.scale.size() == 0 ? 1 : x.size() / q.scale.size();
    for (Index i = 0; i < x.size(); ++i) x[i] *= q.scale[i / block];
    return x;
}

// The block for a last axis of n: 128, or all of it where it is shorter (tiny models).
inline Index block_for(Index n) { return n < quantization_block ? n : quantization_block; }

}  // namespace dsa
