// bfloat16: the upper half of a float32. 1 sign, 8 exponent and 7 mantissa bits.
#pragma once

#include <bit>
#include <cstdint>

namespace dsa {

struct bfloat16 {
    std::uint16_t bits = 0;
};

inline float to_float(bfloat16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }

// Round to nearest, ties to even. NaN becomes 0x7fff, as CUDA's __float2bfloat16_rn gives it
// (cuda_bf16.hpp), so that a payload cannot round up into infinity.
inline bfloat16 to_bfloat16(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if (x != x) return {0x7fff};
    // Adding 0x7fff carries into the kept half when the dropped half is above one half;
    // adding the kept half's last bit as well makes the exact tie carry only if that bit is odd.
    const std::uint32_t last_kept = (bits >> 16) & 1;
    return {static_cast<std::uint16_t>((bits + 0x7fff + last_kept) >> 16)};
}

// What a float32 becomes when it is stored as bfloat16 and read back.
inline float through_bfloat16(float x) { return to_float(to_bfloat16(x)); }

}  // namespace dsa
