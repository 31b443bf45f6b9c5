// The two small number formats as kernels hold them, and how float32 becomes them: cvt to bf16 and to e4m3, to
// nearest even, e4m3 saturating at 448; two at once to a register of bf16, four to one of e4m3, the first in its
// lowest bytes. And 2^x in one instruction, relative error 2^-22, subnormals as 0. PTX ISA, "cvt": .rn,
// .rn.satfinite.e4m3x2; "ex2".
#pragma once

#include <cstdint>

#include "optimized/hopper/device.h"
#include "optimized/support/call.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/numbers.h"
#endif

namespace dsa {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __uint_as_float(std::uint32_t{x.bits} << 16); }

#if defined(DSA_SIMULATOR)

inline bf16 to_bf16(float x) { return {simulator::rounded_to_bf16(x)}; }
inline e4m3 to_e4m3(float x) { return {simulator::rounded_to_e4m3(x)}; }
inline float to_float(e4m3 x) { return simulator::number_of_e4m3(x.bits); }
inline std::uint32_t to_bf16_pair(float low, float high) {
    return to_bf16(low).bits | static_cast<std::uint32_t>(to_bf16(high).bits) << 16;
}
inline std::uint32_t to_e4m3_four(float first, float second, float third, float fourth) {
    return to_e4m3(first).bits | to_e4m3(second).bits << 8 | to_e4m3(third).bits << 16 |
           static_cast<std::uint32_t>(to_e4m3(fourth).bits) << 24;
}
inline float exp2_of(float x) { return x < -126.0F ? 0.0F : std::exp2(x); }

#else

__device__ inline bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

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

__device__ inline e4m3 to_e4m3(float x) {
    std::uint16_t pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0F), "f"(x));
    return {static_cast<std::uint8_t>(pair)};
}

__device__ inline std::uint32_t to_e4m3_four(float first, float second, float third, float fourth) {
    std::uint32_t four;
    asm("{ .reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, %2, %1; cvt.rn.satfinite.e4m3x2.f32 high, %4, %3; "
        "mov.b32 %0, {low, high}; }"
        : "=r"(four)
        : "f"(first), "f"(second), "f"(third), "f"(fourth));
    return four;
}

// By way of f16, which holds every e4m3 number.
__device__ inline float to_float(e4m3 x) {
    std::uint32_t halves;
    float y;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(std::uint16_t{x.bits}));
    asm("{ .reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(y) : "r"(halves));
    return y;
}

#endif

__device__ inline float through_bf16(float x) { return to_float(to_bf16(x)); }

}  // namespace dsa
