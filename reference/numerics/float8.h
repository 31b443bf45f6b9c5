// The two 8-bit formats of DeepSeek's FP8: e4m3 for values, ue8m0 for scales.
// Format: "FP8 Formats for Deep Learning" (arXiv 2209.05433), section 3; OCP MX specification 1.0,
// sections 5.3.1 and 5.4.1. Conversions agree with CUDA's cuda_fp8.hpp on every input
// (tests/reference/test_conversions.cpp).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace dsa {

// 1 sign, 4 exponent (bias 7) and 3 mantissa bits; no infinities; 0x7f and 0xff are NaN.
struct float8_e4m3 {
    std::uint8_t bits = 0;
};

// A power of two from 2^-127 to 2^127; 0xff is NaN; no sign, no zero.
struct float8_ue8m0 {
    std::uint8_t bits = 0;
};

inline constexpr float e4m3_max = 448.0F;                  // 1.75 * 2^8
inline constexpr float e4m3_smallest_subnormal = 0x1p-9F;  // 2^-6 / 8
inline constexpr float e4m3_relative_rounding = 0x1p-4F;   // half a step of 2^-3

inline float to_float(float8_e4m3 x) {
    const int exponent = (x.bits >> 3) & 15;
    const int mantissa = x.bits & 7;
    if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
    // A subnormal counts steps of 2^-9; a normal number is a float32 with the same mantissa, rebiased.
    const float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9F
                                          : std::bit_cast<float>((exponent + 120) << 23 | mantissa << 20);
    return (x.bits & 0x80) != 0 ? -magnitude : magnitude;
}

// Round to nearest, ties to even; magnitudes beyond 448, infinity included, saturate; NaN stays NaN.
inline float8_e4m3 to_e4m3(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint8_t>((bits >> 24) & 0x80);
    if (x != x) return {static_cast<std::uint8_t>(sign | 0x7f)};
    const float magnitude = std::fabs(x);
    if (magnitude >= e4m3_max) return {static_cast<std::uint8_t>(sign | 0x7e)};
    // Normal numbers of exponent e lie 2^(e-3) apart; below 2^-6 the steps stay 2^-9.
    const int float32_exponent = static_cast<int>((bits >> 23) & 255) - 127;
    const int exponent = float32_exponent < -6 ? -6 : float32_exponent;
    // Scaling by the power 2^(3 - exponent) is exact, and the result is below 16: nearbyint rounds it once.
    const float steps_per_unit = std::bit_cast<float>((3 - exponent + 127) << 23);
    const auto steps = static_cast<int>(std::nearbyint(magnitude * steps_per_unit));
    // `steps` counts from the bottom of this binade; 16 of them are the next binade's first value,
    // and 8 steps above the subnormals are the first normal number: the encoding is continuous.
    const int code = steps + (exponent + 6) * 8;
    return {static_cast<std::uint8_t>(sign | code)};
}

inline float to_float(float8_ue8m0 x) {
    if (x.bits == 255) return std::numeric_limits<float>::quiet_NaN();
    return std::ldexp(1.0F, static_cast<int>(x.bits) - 127);
}

// The smallest power of two that is not below x: 2^ceil(log2 x), held within the format's range.
// Negative numbers and NaN have no such power and become NaN; zero becomes the smallest.
inline float8_ue8m0 to_ue8m0_rounding_up(float x) {
    if (!(x >= 0.0F)) return {255};
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t exponent = bits >> 23;
    const std::uint32_t mantissa = bits & 0x7fffff;
    if (exponent == 0) return {static_cast<std::uint8_t>(mantissa > 0x400000 ? 1 : 0)};  // 2^-127 is subnormal
    const std::uint32_t up = exponent + (mantissa != 0 ? 1 : 0);
    return {static_cast<std::uint8_t>(up > 254 ? 254 : up)};
}

}  // namespace dsa
