// Four e4m3 numbers of a register to four of bf16, times their scale, in ten cheap instructions.
//
// An e4m3 number is s eeee mmm, a bf16 number s eeeeeeee mmmmmmm. Put in place, e4m3's seven low bits are a bf16
// number that is 2^120 times too small (biases 7 and 127), subnormals included, and one packed product by
// 2^120 scale mends two at once. The product is rounded as float32's would be: exact in both before the rounding to
// bf16. Where it cannot be done so (a scale that is no bf16 number or whose 2^120-fold is none, a NaN among the
// codes) each number takes the long road, one by one.
//
// A register holds bytes 0 1 2 3; the pairs that cost least are (0, 2) and (1, 3). So in shared memory the columns of
// the latent lie in the order 0 2 1 3 within each four: `column_order`. q is put in the same order, and the columns
// of the result are told apart again at the end.
#pragma once

#include "optimized/hopper/pairs.h"

namespace dsa {

struct alignas(16) Words {
    std::uint32_t at[4];
};

// 2^120 scale twice over; 0, which no scale becomes, where the long road is to be taken.
__device__ inline std::uint32_t scale_for_pairs(float scale) {
    const std::uint32_t bits = __float_as_uint(scale);
    const std::uint32_t exponent = bits >> 23 & 0xff;
    constexpr std::uint32_t least = 27, most = 134;  // products are no subnormals of float32; 2^120 scale is finite
    if ((bits & 0xffffU) != 0 || exponent < least || exponent > most) return 0;
    const std::uint32_t high = (bits >> 16) + (120U << 7);
    return high | high << 16;
}

// Bit 7 of a byte is set where a code of the four words is NaN; the other bits say nothing.
constexpr std::uint32_t nan_bits = 0x80808080U;
__device__ inline std::uint32_t nan_codes(const Words& codes) {
    std::uint32_t found = 0;
#pragma unroll
    for (const std::uint32_t four : codes.at) found |= (four & 0x7f7f7f7fU) + 0x01010101U;
    return found;
}

// Bytes 0 and 2, then 1 and 3.
__device__ inline void dequantise_four(std::uint32_t four, std::uint32_t scale_pair, std::uint32_t* pairs) {
    constexpr std::uint32_t sign = 0x80008000U, rest = 0x07f007f0U;
    pairs[0] = multiply_pairs((four << 8 & sign) | (four << 4 & rest), scale_pair);
    pairs[1] = multiply_pairs((four & sign) | (four >> 4 & rest), scale_pair);
}
__device__ inline void dequantise_four_one_by_one(std::uint32_t four, float scale, std::uint32_t* pairs) {
    const auto number = [&](int byte) {
        return to_float(e4m3{static_cast<std::uint8_t>(four >> (8 * byte))}) * scale;
    };
    pairs[0] = to_bf16_pair(number(0), number(2));
    pairs[1] = to_bf16_pair(number(1), number(3));
}

// 16 codes to two pieces of 8 numbers.
__device__ inline void dequantise(const Words& codes, std::uint32_t scale_pair, Words (&to)[2]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) dequantise_four(codes.at[i], scale_pair, &to[i / 2].at[i % 2 * 2]);
}
__device__ inline void dequantise_one_by_one(const Words& codes, float scale, Words (&to)[2]) {
    for (int i = 0; i < 4; ++i) dequantise_four_one_by_one(codes.at[i], scale, &to[i / 2].at[i % 2 * 2]);
}

// The middle two bytes of each four change places: then the pairs above are in plain order, for one instruction more
// of four codes, and neither q nor the result is turned about.
__device__ inline Words for_plain_order(const Words& codes) {
    Words turned;
#pragma unroll
    for (int i = 0; i < 4; ++i) turned.at[i] = middle_exchanged(codes.at[i]);
    return turned;
}

// The same order for 8 numbers of q: the middle two of each four change places.
__device__ inline Words in_column_order(const Words& numbers) {
    Words ordered;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const std::uint32_t first = numbers.at[i], second = numbers.at[i + 1];
        ordered.at[i] = (first & 0xffffU) | second << 16;
        ordered.at[i + 1] = first >> 16 | (second & 0xffff0000U);
    }
    return ordered;
}
// Lanes 2 i and 2 i + 1 hold places 0 1 and 2 3 of four, which are columns 0 2 and 1 3: exchanged to 0 1 and 2 3.
__device__ inline std::uint32_t in_plain_order(std::uint32_t pair) {
    const std::uint32_t other = __shfl_xor_sync(all_lanes, pair, 1);
    return lane_id() % 2 == 0 ? (pair & 0xffffU) | other << 16 : other >> 16 | (pair & 0xffff0000U);
}

}  // namespace dsa
