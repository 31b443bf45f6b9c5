// Two bf16 numbers in one register, the first in its low half, and their products, two at once, each rounded to
// nearest even; subnormals are numbers. PTX ISA, "mul": .rn.bf16x2.
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

#if defined(DSA_SIMULATOR)

// A product of two numbers of 8 significant bits is exact in float32.
inline std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
    return to_bf16_pair(__uint_as_float(a << 16) * __uint_as_float(b << 16),
                        __uint_as_float(a & 0xffff0000U) * __uint_as_float(b & 0xffff0000U));
}

#else

__device__ inline std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
    std::uint32_t products;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(products) : "r"(a), "r"(b));
    return products;
}

#endif

}  // namespace dsa
