// What the levels on wgmma do with a thread's fragments between q k^T and p v: two rows of scores, wgmma_row(thread,
// 0) and 8 below.
#pragma once

#include "optimized/attention/latent_tile.cuh"

namespace dsa {

// The positions that the two rows see.
struct Limits {
    int first[2], end[2];

    // The scores of 2 half_n positions from `at` on become minus infinity where they are not seen.
    template <int half_n>
    __device__ void hide(float (&s)[half_n], int at) const {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (at >= first[i] && at + 2 * half_n <= end[i]) continue;
#pragma unroll
            for (int j = 0; j < half_n; ++j) {
                const int position = at + wgmma_column(static_cast<int>(threadIdx.x), j);
                if (j / 2 % 2 == i && (position < first[i] || position >= end[i])) s[j] = minus_infinity();
            }
        }
    }
};

// p of 64 rows and `keys` keys, as A of p v.
template <int keys>
using Weights = std::uint32_t[keys / 16][4];

template <int steps, int half_n>
__device__ inline void round_weights(std::uint32_t (&p)[steps][4], const float (&s)[half_n]) {
    static_assert(half_n == 8 * steps);
#pragma unroll
    for (int i = 0; i < half_n / 2; ++i) p[i / 4][i % 4] = to_bf16_pair(s[2 * i], s[2 * i + 1]);
}

// out (+)= p v: [64, 2 half_n]. v: panels of 64 columns, `apart` bytes apart, MN-major.
template <int apart, int steps, int half_n>
__device__ inline void weigh_from_registers(float (&out)[half_n], const std::uint32_t (&p)[steps][4], const void* v,
                                            bool add) {
    constexpr Form values{.b_is_mn_major = true};
    const Descriptor b = mn_major(v, apart, latent_tile::wide);
#pragma unroll
    for (int i = 0; i < steps; ++i)
        wgmma<bf16, values>(out, p[i], advanced(b, i * 16 * latent_tile::row_bytes), add || i > 0);
}

template <int half_n>
__device__ inline void rescale(float (&out)[half_n], const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < half_n; ++i) out[i] *= factor[i / 2 % 2];
}

}  // namespace dsa
