// A power-of-two scale without a division, and many numbers over one scale, each rounded as a division rounds it: a
// product with the scale's inverse, and one correction by what is left. tests/optimized/test_indexer_pass.cpp asks
// the quotients of bf16 numbers and scales.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

// The smallest power of two that is not below x / 448, of a normal x of 2^-117 or more. 448 is 1.75 x 2^8: whether
// x's mantissa is above 1.75 decides.
__device__ inline float power_of_two_above_448th(float x) {
    constexpr std::uint32_t fraction = 0x007fffffU, three_quarters = 0x00600000U;
    return __uint_as_float(((__float_as_uint(x) + (fraction - three_quarters)) & ~fraction) - (8U << 23));
}

// powers: the scale is a power of two, whose inverse is exact.
template <bool powers>
class Divisor {
   public:
    __device__ explicit Divisor(float scale)
        : lift_(!powers && scale < 0x1p-60F ? 0x1p80F : 1.0F), scale_(scale * lift_), inverse_(1.0F / scale_) {}
    // |x| is at most some hundred scales.
    __device__ float operator()(float x) const {
        if (powers) return x * inverse_;
        const float lifted = x * lift_;
        const float near = lifted * inverse_;
        const float left = fmaf(-near, scale_, lifted);
        return copysignf(fmaf(left, inverse_, near), x);  // -0 too
    }

   private:
    float lift_;  // so that a tiny scale has an inverse
    float scale_, inverse_;
};

}  // namespace dsa
