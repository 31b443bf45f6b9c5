// Attention of 64 heads of a query over tiles of 64 latents, on wgmma: how a tile lies in shared memory, the products
// q k^T and p v, and between them one step of the running softmax on the fragments of the first. A latent is the key
// and, but for its last panel, the value: one copy of it serves both products.
//
// A tile is `panels` panels of 64 columns, 128 bytes a row, swizzled: K-major for q k^T, and MN-major for p v, whose
// sums run over the keys. The last panel holds the rotated columns, which have no part in p v: when q k^T is done, p
// takes its place.
#pragma once

#include "optimized/attention/softmax.cuh"
#include "optimized/hopper/matrix.h"
#include "optimized/hopper/numbers.h"
#include "optimized/hopper/wgmma.h"

namespace dsa::latent_tile {

inline constexpr int warpgroup = 128;
inline constexpr float one_over_ln2 = 1.44269504088896340736F;
inline constexpr int heads = 64, keys = 64;
inline constexpr int d = 576, d_v = 512;
inline constexpr int panel_columns = 64;
inline constexpr int panels = d / panel_columns;
inline constexpr int value_panels = d_v / panel_columns;
inline constexpr Swizzle wide = Swizzle::bytes_128;
inline constexpr int row_bytes = span_of(wide);
inline constexpr int steps = row_bytes / 32;  // of wgmma, a panel

struct alignas(1024) Panel {
    bf16 at[64 * panel_columns];  // [64, panel_columns]
};
struct Rows {
    Panel panel[panels];  // 64 rows of d numbers
    __device__ Panel& weights() { return panel[value_panels]; }
};

// Where piece `piece` of 16 bytes of row `row` lies.
__device__ inline int place_of_piece(int row, int piece) {
    constexpr int pieces = row_bytes / 16;  // of a row of a panel
    return piece / pieces * static_cast<int>(sizeof(Panel)) +
           static_cast<int>(swizzled_offset(static_cast<std::uint32_t>(row * row_bytes + piece % pieces * 16), wide));
}

// s (+)= q k^T over some panels: [heads, 2 half_n keys]. k's panels lie `apart` bytes apart.
template <int count, int apart = static_cast<int>(sizeof(Panel)), int half_n>
__device__ inline void score(float (&s)[half_n], const Panel* q, const void* k, bool add) {
    const Descriptor a = k_major(q, wide), b = k_major(k, wide);
#pragma unroll
    for (int panel = 0; panel < count; ++panel)
#pragma unroll
        for (int part = 0; part < steps; ++part)
            wgmma<bf16>(s, advanced(a, panel * static_cast<int>(sizeof(Panel)) + part * 32),
                        advanced(b, panel * apart + part * 32), add || panel > 0 || part > 0);
}
// The same with q in registers.
template <int count, int apart, int half_n>
__device__ inline void score(float (&s)[half_n], const std::uint32_t (&q)[count * steps][4], const void* k,
                             bool add) {
    const Descriptor b = k_major(k, wide);
#pragma unroll
    for (int i = 0; i < count * steps; ++i)
        wgmma<bf16>(s, q[i], advanced(b, i / steps * apart + i % steps * 32), add || i > 0);
}

// out (+)= p v for as many of v's columns as `out` has, over 16 `count` keys: [heads, columns]. p's rows are `of_p`
// wide. v's panels lie `apart` bytes apart. (ptxas gives N = 256 to no kernel of 512 threads, whatever setmaxnreg
// adds.)
template <Swizzle of_p = wide, int apart = static_cast<int>(sizeof(Panel)), int count = span_of(of_p) / 32,
          int half_n>
__device__ inline void weigh(float (&out)[half_n], const void* p, const void* v, bool add) {
    constexpr Form values{.b_is_mn_major = true};
    const Descriptor a = k_major(p, of_p), b = mn_major(v, apart, wide);
#pragma unroll
    for (int i = 0; i < count; ++i)
        wgmma<bf16, values>(out, advanced(a, i * 32), advanced(b, i * 16 * row_bytes), add || i > 0);
}

// The same with p in registers.
template <int apart, int half_n, int count>
__device__ inline void weigh(float (&out)[half_n], const std::uint32_t (&p)[count][4], const void* v, bool add) {
    constexpr Form values{.b_is_mn_major = true};
    const Descriptor b = mn_major(v, apart, wide);
#pragma unroll
    for (int i = 0; i < count; ++i) wgmma<bf16, values>(out, p[i], advanced(b, i * 16 * row_bytes), add || i > 0);
}

// What a thread knows of its two rows, `wgmma_row(thread, 0)` and 8 below. p is 2^(to_log2 (s - reference)). The
// reference follows the maximum only when it would let p grow beyond 2^8: older sums are seldom rescaled.
struct RunningSoftmax {
    static constexpr float let_grow = 8.0F;
    float largest[2] = {minus_infinity(), minus_infinity()};
    float reference[2] = {minus_infinity(), minus_infinity()};
    float sum[2] = {};     // this thread's columns only
    float factor[2] = {};  // by which older sums of this step are multiplied

    // s becomes p, and 0 where the key's bit of `valid` (32 keys a word) is not set. to_log2: scale / ln 2, positive.
    // Bits of no key are set. Whether older sums of any row of this warp are rescaled.
    template <int half_n>
    __device__ bool step(float (&s)[half_n], const std::uint32_t (&valid)[(half_n + 15) / 16], float to_log2) {
        std::uint32_t all = 0xffffffffU;
        for (const std::uint32_t word : valid) all &= word;
        if (all != 0xffffffffU) {
            const int first = lane_id() % 4 * 2;
#pragma unroll
            for (int i = 0; i < half_n; ++i)
                if ((valid[i / 16] >> first & 1U << (i / 4 * 8 % 32 + i % 2)) == 0) s[i] = minus_infinity();
        }
        // Both rows side by side: one warp a scheduler has only them to hide its latencies.
        float most[2] = {largest[0], largest[1]};
#pragma unroll
        for (int i = 0; i < half_n; i += 4)
#pragma unroll
            for (int row = 0; row < 2; ++row) most[row] = fmaxf(most[row], fmaxf(s[i + 2 * row], s[i + 2 * row + 1]));
#pragma unroll
        for (int flip = 1; flip < 4; flip *= 2)
#pragma unroll
            for (int row = 0; row < 2; ++row)
                most[row] = fmaxf(most[row], __shfl_xor_sync(all_lanes, most[row], flip));
        bool rises = false;
        float below[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            const bool beyond = (most[row] - reference[row]) * to_log2 > let_grow;
            const float to = beyond ? most[row] : reference[row];
            const float moved = exp2_of((reference[row] - to) * to_log2);
            factor[row] = beyond ? moved : 1.0F;
            reference[row] = to;
            largest[row] = most[row];
            below[row] = to == minus_infinity() ? 0.0F : to * to_log2;
            rises = rises || beyond;
        }
        float added[2][2] = {};
#pragma unroll
        for (int i = 0; i < half_n; ++i) {
            const int row = i / 2 % 2;
            s[i] = exp2_of(s[i] * to_log2 - below[row]);
            added[row][i % 2] += s[i];
        }
#pragma unroll
        for (int row = 0; row < 2; ++row) sum[row] = sum[row] * factor[row] + (added[row][0] + added[row][1]);
        return __any_sync(all_lanes, rises) != 0;
    }

    // The whole row's.
    __device__ float total(int row) const {
        float all = sum[row];
#pragma unroll
        for (int flip = 1; flip < 4; flip *= 2) all += __shfl_xor_sync(all_lanes, all, flip);
        return all;
    }
};

// 16 keys of p as A of p v, in registers.
__device__ inline void fragment_of(const float* p, std::uint32_t (&fragment)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) fragment[i] = to_bf16_pair(p[2 * i], p[2 * i + 1]);
}
// The same, number `step`, to shared memory: [heads, keys], swizzled over a row of 128, 64 or 32 bytes. All warps of
// the warpgroup have their rows.
template <Swizzle of_p>
__device__ inline void store_fragment(const std::uint32_t (&fragment)[4], int step, void* to) {
    const int lane = lane_id(), matrix = lane / 8;
    const int row = wgmma_row(static_cast<int>(threadIdx.x), 0) / 16 * 16 + lane % 8 + matrix % 2 * 8;
    const auto offset = static_cast<std::uint32_t>(row * span_of(of_p) + (2 * step + matrix / 2) * 16);
    store_matrices(fragment, static_cast<unsigned char*>(to) + swizzled_offset(offset, of_p));
}
// All of p, 2 half_n keys.
template <int half_n>
__device__ inline void store_weights(const float* p, void* to) {
    constexpr Swizzle of_p = half_n == 32 ? Swizzle::bytes_128 : half_n == 16 ? Swizzle::bytes_64 : Swizzle::bytes_32;
    static_assert(half_n * 4 == span_of(of_p));
#pragma unroll
    for (int step = 0; step < half_n / 8; ++step) {
        std::uint32_t fragment[4];
        fragment_of(p + 8 * step, fragment);
        store_fragment<of_p>(fragment, step, to);
    }
}

}  // namespace dsa::latent_tile
