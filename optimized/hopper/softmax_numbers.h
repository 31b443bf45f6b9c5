// What a softmax does to many numbers: two of them to bf16 in one register, the first in its low half, to nearest
// even; and 2^x, with a relative error of 2^-22, subnormals as 0. PTX ISA, "cvt": .rn.bf16x2; "ex2".
#pragma once

#include "optimized/hopper/numbers.h"

namespace dsa {

#if defined(DSA_SIMULATOR)

inline std::uint32_t to_bf16_pair(float low, float high) {
    return to_bf16(low).bits | static_cast<std::uint32_t>(to_bf16(high).bits) << 16;
}
inline float exp2_of(float x) { return x < -126.0F ? 0.0F : std::exp2(x); }

#else

__device__ inline std::uint32_t to_bf16_pair(float low, float high) {
    std::uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ inline float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

}  // namespace dsa
