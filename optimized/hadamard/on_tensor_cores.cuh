// The Walsh-Hadamard transform of 8 vectors of n = 64 or 128 bf16 numbers at once, as a product H x on the tensor
// cores. H is +-1, so that products are exact and sums float32; it is made of signs, and never read.
//
// H is a product of one factor for each bit of the index: the sign at (row m, column k) is the parity of the ones in
// m & k. So bits may be given to lanes and registers at will. Of the n numbers of vector g, lane 4 g + t brings
// pieces of 8 neighbours, 8 t + 32 r ..., as one load of 16 bytes finds them; of the transform lane 4 g + t gets n /
// 8 neighbours, from number n / 8 g on, of the vectors 2 t and 2 t + 1, as one store leaves them:
//
//   bit of the index   6    5    4    3    2    1    0
//   of k               r    r    t    t    two  mma  pair    n = 128; for 64 the same without bit 6, and
//   of m               g    g    g    tile two  mma  row     bits 5, 4, 3 of m in g
//
// Bit 2 is left to a sum and a difference of two products, which are half as many for it.
#pragma once

#include "optimized/hopper/mma.h"
#include "optimized/hopper/pairs.h"

namespace dsa {

// x[r][j]: numbers 32 r + 8 t + 2 j and the next; y[c][i]: number n / 8 g + i of vector 2 t + c, over sqrt(n). All
// lanes come.
template <int n>
__device__ void hadamard_on_tensor_cores(const std::uint32_t (&x)[n / 32][4], float (&y)[2][n / 8]) {
    static_assert(n == 64 || n == 128, "n is 64 or 128");
    constexpr int tiles = n / 64;
    constexpr std::uint32_t ones = 0x3f803f80U, one_and_minus_one = 0xbf803f80U, both_signs = 0x80008000U;
    const int g = mma_row(lane_id()), t = lane_id() % 4;
    float sums[tiles][2][2][4] = {};  // [bit 3 of m, bit 1 of m, bit 2 of k]
#pragma unroll
    for (int r = 0; r < n / 32; ++r)
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
            const bool odd = __popc(static_cast<unsigned>((n / 8 * g + 8 * tile) & (32 * r + 8 * t))) % 2 != 0;
            const std::uint32_t sign = odd ? both_signs : 0;
#pragma unroll
            for (int mma_bit = 0; mma_bit < 2; ++mma_bit) {
                const std::uint32_t last = mma_bit == 0 ? sign : sign ^ both_signs;
                const std::uint32_t a[4] = {ones ^ sign, one_and_minus_one ^ sign, ones ^ last,
                                            one_and_minus_one ^ last};
#pragma unroll
                for (int two = 0; two < 2; ++two) {
                    const std::uint32_t b[2] = {x[r][2 * two], x[r][2 * two + 1]};
                    mma<bf16>(sums[tile][mma_bit][two], a, b);
                }
            }
        }
    const float norm = 1.0F / sqrtf(static_cast<float>(n));
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile)
#pragma unroll
        for (int mma_bit = 0; mma_bit < 2; ++mma_bit)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float first = sums[tile][mma_bit][0][i], second = sums[tile][mma_bit][1][i];
                const int at = 8 * tile + 2 * mma_bit + i / 2;
                y[i % 2][at] = (first + second) * norm;
                y[i % 2][at + 4] = (first - second) * norm;
            }
}

}  // namespace dsa
