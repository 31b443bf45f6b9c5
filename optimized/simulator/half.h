// f16's conversions, bit by bit: sign, 5 bits of exponent (bias 15), 10 of mantissa.
#pragma once

#include <cstring>

#include "optimized/simulator/numbers.h"

namespace dsa::simulator {

// To nearest, ties to even; what rounds beyond 65504 is infinity, NaN becomes the canonical one.
inline std::uint16_t rounded_to_f16(float x) {
    const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return 0x7fff;
    const float magnitude = std::fabs(x);
    if (magnitude >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7c00);
    // The step between neighbours: 2^-24 for subnormals, else 2^(exponent - 10). Dividing by it is exact.
    const int exponent = magnitude < 0x1p-14F ? -14 : std::ilogb(magnitude);
    const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    // A carry of the mantissa is one of the exponent.
    return static_cast<std::uint16_t>(sign | (((exponent + 14) << 10) + steps));
}

inline float number_of_f16(std::uint16_t bits) {
    const int e = bits >> 10 & 31;
    const auto m = static_cast<float>(bits & 0x3ff);
    float magnitude = e == 0 ? std::ldexp(m, -24) : std::ldexp(1024.0F + m, e - 25);
    if (e == 31) magnitude = (bits & 0x3ff) == 0 ? HUGE_VALF : __uint_as_float(0x7fffffffU);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

struct Half {
    std::uint16_t bits;
};
// As simulator/mma.h's.
inline double number_at(const unsigned char* bytes, int i, Half) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes + 2 * i, sizeof bits);
    return number_of_f16(bits);
}

}  // namespace dsa::simulator
