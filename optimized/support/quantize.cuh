// How a block of numbers becomes e4m3 and one scale: scale = floored(amax) / 448, to a power of two where ue8m0 is
// asked for; a number is stored as rn(x / scale), saturating. Spec sections 3 and 9. Every operation is rounded as
// the specification rounds it, since the bytes have one right answer.
#pragma once

#include "optimized/hopper/numbers.h"
#include "optimized/support/case.h"

namespace dsa {

// The smallest power of two that is not below `scale` nor below 2^-127; 0 stays 0.
__device__ inline float power_of_two_above(float scale) {
    constexpr float smallest = 0x1p-127F;
    constexpr float smallest_normal = 0x1p-126F;
    if (scale == 0.0F || !(scale < __uint_as_float(0x7f800000U))) return scale;
    if (scale <= smallest) return smallest;
    if (scale <= smallest_normal) return smallest_normal;
    constexpr std::uint32_t mantissa = 0x007fffffU;
    return __uint_as_float((__float_as_uint(scale) + mantissa) & ~mantissa);
}

// amax: the largest magnitude of the block
__device__ inline float block_scale(float amax, Quantizer quantizer, bool ue8m0) {
    constexpr float largest = 448.0F;
    float scale = 1.0F;  // Quantizer::none
    if (quantizer == Quantizer::deepseek) scale = (amax > 1e-4F ? amax : 1e-4F) / largest;
    if (quantizer == Quantizer::flashmla) scale = amax / largest > 1e-4F ? amax / largest : 1e-4F;
    if (quantizer == Quantizer::vllm) scale = (amax > 0x1p-126F ? amax : 0x1p-126F) / largest;
    if (quantizer == Quantizer::no_floor) scale = amax / largest;
    return ue8m0 && quantizer != Quantizer::none ? power_of_two_above(scale) : scale;
}

}  // namespace dsa
