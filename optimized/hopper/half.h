// f16, two numbers in one register, the first in its low half: 11 significant bits, from 2^-14 to 65504, subnormals
// down to 2^-24. It holds every e4m3 number. And bytes of two registers put side by side, so that two rows' codes
// of a column become such a pair. PTX ISA, "cvt": .rn.f16x2, .rn.f16x2.e4m3x2; "mul": .rn.f16x2; "prmt".
#pragma once

#include <cstdint>

#include "optimized/hopper/device.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/half.h"
#endif

namespace dsa {

struct f16 {
    std::uint16_t bits;
};

// To nearest even; what is too large becomes infinity.
__device__ std::uint32_t to_f16_pair(float low, float high);
// Bytes 2 half and 2 half + 1 of `four`, codes of e4m3.
template <int half>
__device__ std::uint32_t f16_pair_of_codes(std::uint32_t four);
// Two products, each rounded to nearest even.
__device__ std::uint32_t multiply_f16_pairs(std::uint32_t a, std::uint32_t b);
// Bytes a0 b0 a1 b1; and a2 b2 a3 b3.
__device__ std::uint32_t low_bytes_by_turns(std::uint32_t a, std::uint32_t b);
__device__ std::uint32_t high_bytes_by_turns(std::uint32_t a, std::uint32_t b);

#if defined(DSA_SIMULATOR)

inline std::uint32_t to_f16_pair(float low, float high) {
    return simulator::rounded_to_f16(low) | static_cast<std::uint32_t>(simulator::rounded_to_f16(high)) << 16;
}
template <int half>
std::uint32_t f16_pair_of_codes(std::uint32_t four) {
    const auto number = [&](int byte) {
        return simulator::number_of_e4m3(static_cast<std::uint8_t>(four >> (8 * byte)));
    };
    return to_f16_pair(number(2 * half), number(2 * half + 1));
}
// A product of two numbers of 11 significant bits is exact in float32.
inline std::uint32_t multiply_f16_pairs(std::uint32_t a, std::uint32_t b) {
    const auto number = [](std::uint32_t bits) { return simulator::number_of_f16(static_cast<std::uint16_t>(bits)); };
    return to_f16_pair(number(a) * number(b), number(a >> 16) * number(b >> 16));
}
inline std::uint32_t low_bytes_by_turns(std::uint32_t a, std::uint32_t b) {
    return (a & 0xffU) | (b & 0xffU) << 8 | (a & 0xff00U) << 8 | (b & 0xff00U) << 16;
}
inline std::uint32_t high_bytes_by_turns(std::uint32_t a, std::uint32_t b) {
    return low_bytes_by_turns(a >> 16, b >> 16);
}

#else

__device__ inline std::uint32_t to_f16_pair(float low, float high) {
    std::uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
template <int half>
__device__ inline std::uint32_t f16_pair_of_codes(std::uint32_t four) {
    std::uint32_t pair;
    if constexpr (half == 0)
        asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, low; }"
            : "=r"(pair)
            : "r"(four));
    else
        asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, high; }"
            : "=r"(pair)
            : "r"(four));
    return pair;
}
__device__ inline std::uint32_t multiply_f16_pairs(std::uint32_t a, std::uint32_t b) {
    std::uint32_t products;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(products) : "r"(a), "r"(b));
    return products;
}
__device__ inline std::uint32_t low_bytes_by_turns(std::uint32_t a, std::uint32_t b) {
    return __byte_perm(a, b, 0x5140);
}
__device__ inline std::uint32_t high_bytes_by_turns(std::uint32_t a, std::uint32_t b) {
    return __byte_perm(a, b, 0x7362);
}

#endif

}  // namespace dsa
