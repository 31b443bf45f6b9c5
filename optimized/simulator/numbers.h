// The hardware's conversions, bit by bit. tests/optimized holds them against every bit pattern.
#pragma once

#include <cmath>
#include <cstdint>

#include "optimized/simulator/cuda.h"

namespace dsa::simulator {

// x rounded to 8 significant bits, to nearest, ties to even; NaN becomes the canonical one.
inline std::uint16_t rounded_to_bf16(float x) {
    const std::uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffU) > 0x7f800000U) return 0x7fff;
    return static_cast<std::uint16_t>((u + 0x7fffU + (u >> 16 & 1U)) >> 16);
}

// Sign, 4 bits of exponent (bias 7), 3 of mantissa; 0x7f is NaN, there is no infinity, the largest is 448.
inline std::uint8_t rounded_to_e4m3(float x) {
    const std::uint8_t sign = std::signbit(x) ? 0x80 : 0;
    if (std::isnan(x)) return 0x7f;
    const float magnitude = std::fabs(x);
    if (magnitude >= 464.0F) return static_cast<std::uint8_t>(sign | 0x7e);  // past the tie of 448 and 480
    // The step between neighbours: 2^-9 for subnormals, else 2^(exponent - 3). Dividing by it is exact.
    const int exponent = magnitude < 0x1p-6F ? -6 : std::ilogb(magnitude);
    const float steps = std::nearbyint(std::ldexp(magnitude, 3 - exponent));
    const float rounded = std::ldexp(steps, exponent - 3);
    if (rounded < 0x1p-6F) return static_cast<std::uint8_t>(sign | static_cast<int>(steps));
    if (rounded > 448.0F) return static_cast<std::uint8_t>(sign | 0x7e);
    const int e = std::ilogb(rounded);
    const int m = static_cast<int>(std::ldexp(rounded, 3 - e)) - 8;
    return static_cast<std::uint8_t>(sign | (e + 7) << 3 | m);
}

inline float number_of_e4m3(std::uint8_t bits) {
    const int e = bits >> 3 & 15;
    const auto m = static_cast<float>(bits & 7);
    if ((bits & 0x7f) == 0x7f) return __uint_as_float(0x7fffffffU);
    const float magnitude = e == 0 ? std::ldexp(m, -9) : std::ldexp(1.0F + m / 8.0F, e - 7);
    return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

}  // namespace dsa::simulator
