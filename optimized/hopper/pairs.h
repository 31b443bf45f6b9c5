// Two bf16 numbers in one register, the first in its low half. Their products, two at once, each rounded to nearest
// even; subnormals are numbers. Their magnitudes, and the larger of two pairs of such: as integers, whose order is
// that of the numbers (NaN is the largest). PTX ISA, "mul": .rn.bf16x2; "max": .u16x2.
#pragma once

#include "optimized/hopper/numbers.h"

namespace dsa {

// The middle two bytes of four change places.
__device__ inline std::uint32_t middle_exchanged(std::uint32_t four) {
#if defined(DSA_SIMULATOR)
    return (four & 0xff0000ffU) | (four >> 8 & 0xff00U) | (four & 0xff00U) << 8;
#else
    return __byte_perm(four, 0, 0x3120);
#endif
}

__device__ inline float first_of_pair(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float second_of_pair(std::uint32_t pair) { return __uint_as_float(pair & 0xffff0000U); }
__device__ inline std::uint32_t magnitudes(std::uint32_t pair) { return pair & 0x7fff7fffU; }

#if defined(DSA_SIMULATOR)

// A product of two numbers of 8 significant bits is exact in float32.
inline std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
    return to_bf16_pair(first_of_pair(a) * first_of_pair(b), second_of_pair(a) * second_of_pair(b));
}
inline std::uint32_t larger_pair(std::uint32_t a, std::uint32_t b) {
    const std::uint32_t low = (a & 0xffffU) < (b & 0xffffU) ? b & 0xffffU : a & 0xffffU;
    return low | ((a >> 16) < (b >> 16) ? b & 0xffff0000U : a & 0xffff0000U);
}

#else

__device__ inline std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
    std::uint32_t products;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(products) : "r"(a), "r"(b));
    return products;
}
__device__ inline std::uint32_t larger_pair(std::uint32_t a, std::uint32_t b) {
    std::uint32_t larger;
    asm("max.u16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
}

#endif

}  // namespace dsa
