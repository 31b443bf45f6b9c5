// Many numbers over one scale, each rounded as a division rounds it: a product with the scale's inverse, and one
// correction by what is left. tests/optimized/test_quotient.cpp asks every quotient of bf16 numbers and scales.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

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
        const float excess = fmaf(near, scale_, -lifted);
        return fmaf(-excess, inverse_, near);
    }

   private:
    float lift_;  // so that a tiny scale has an inverse
    float scale_, inverse_;
};

}  // namespace dsa
