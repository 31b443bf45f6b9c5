// What the levels on wgmma share: the call as their kernels see it, and what is told of a query at its end.
#pragma once

#include <limits>

#include "optimized/attention/latent_tile.cuh"
#include "optimized/sparse_prefill/op.h"
#include "optimized/support/launch.h"
#include "optimized/support/multiprocessors.h"

namespace dsa::latent_tile {

// An item is 64 heads of a query, or what the last ones are fewer. A block takes every gridDim.x-th.
struct Work {
    const bf16* q;             // [T, H, d]
    const bf16* kv;            // [S, d]
    const std::int32_t* kept;  // [T, k], -1 where a slot does not count
    AttentionResult result;
    int T, H, k;
    int groups;  // of heads, a query
    int items;
    // item / groups is item multiplier / 2^shift, where a division has thirty instructions. 2^shift is at least 2^31
    // groups, and the multiplier is rounded up: right for items below 2^31.
    std::uint32_t multiplier;
    int shift;

    __device__ int query(int item) const {
        return static_cast<int>(std::uint64_t{static_cast<std::uint32_t>(item)} * multiplier >> shift);
    }
    __device__ int first_head(int item) const { return (item - query(item) * groups) * heads; }
    __device__ int first_row(int item) const { return query(item) * H + first_head(item); }
    __device__ int tiles() const { return k == 0 ? 1 : (k + keys - 1) / keys; }
};

inline Work work_of(const SparsePrefill& call, const std::int32_t* kept) {
    const auto groups = static_cast<int>(blocks_for(call.H, heads));
    int shift = 31;
    while (1 << (shift - 31) < groups) ++shift;
    return {call.q,
            call.kv,
            kept,
            call.result,
            static_cast<int>(call.T),
            static_cast<int>(call.H),
            static_cast<int>(call.k),
            groups,
            static_cast<int>(call.T) * groups,
            groups == 0 ? 0 : static_cast<std::uint32_t>(blocks_for(std::int64_t{1} << shift, groups)),
            shift};
}

// lse and the maximum of this thread's rows; one_over[row]: what the sums of p v are multiplied by.
__device__ inline void conclude(const Work& work, const RunningSoftmax& softmax, int item, float (&one_over)[heads]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float sum = softmax.total(row);
        const int r = wgmma_row(static_cast<int>(threadIdx.x), 2 * row);
        const int head = work.first_head(item) + r;
        const float reference = softmax.reference[row] * work.result.scale;
        if (lane_id() % 4 != 0) continue;
        const bool counts = head < work.H && reference != minus_infinity();
        one_over[r] = counts ? 1.0F / denominator(work.result, head, reference, sum) : 0.0F;
        if (head >= work.H) continue;
        const int at = work.first_row(item) + r;
        work.result.lse[at] = told_lse(work.result, reference, sum);
        if (work.result.max_logit != nullptr) work.result.max_logit[at] = softmax.largest[row] * work.result.scale;
    }
}

// Four lanes of a quad have columns 2 p, 2 p + 1 of four groups of 8 columns each; then lane p has all of group p.
__device__ inline void gather_quad(std::uint32_t (&pairs)[4]) {
#pragma unroll
    for (int flip = 1; flip < 4; flip *= 2) {
        const bool upper = (lane_id() & flip) != 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if ((i & flip) != 0) continue;
            const std::uint32_t got = __shfl_xor_sync(all_lanes, upper ? pairs[i] : pairs[i + flip], flip);
            (upper ? pairs[i] : pairs[i + flip]) = got;
        }
    }
}

struct alignas(16) FourPairs {
    std::uint32_t v[4];
};

// Sums of p v, this thread's two rows of `columns`, times one_over, to out from `column`.
template <int half_n>
__device__ void store_out(const Work& work, int item, const float (&sums)[half_n], const float (&one_over)[2],
                          int column) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const int r = wgmma_row(static_cast<int>(threadIdx.x), 2 * row);
        const bool counts = work.first_head(item) + r < work.H;
        bf16* to = work.result.out + std::int64_t{work.first_row(item) + r} * d_v + column + lane_id() % 4 * 8;
#pragma unroll
        for (int j = 0; j < half_n / 16; ++j) {
            std::uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at = 16 * j + 4 * i + 2 * row;
                pairs[i] = to_bf16_pair(sums[at] * one_over[row], sums[at + 1] * one_over[row]);
            }
            gather_quad(pairs);
            if (counts) *reinterpret_cast<FourPairs*>(to + 32 * j) = {{pairs[0], pairs[1], pairs[2], pairs[3]}};
        }
    }
}

// Why these levels do not take a call; empty if they do.
inline std::string declines_latents(const SparsePrefill& call) {
    if (call.d != d || call.d_v != d_v)
        return sentence("a latent has ", d, " numbers, of which ", d_v, " are the value; here ", call.d, " and ",
                        call.d_v);
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    if (call.T * (call.H + heads) > most || call.T * call.k > most)
        return sentence("T (H + ", heads, ") and T k must be below 2^31; T, H and k are ", call.T, ", ", call.H,
                        " and ", call.k);
    if (!(call.result.scale > 0)) return sentence("the scale must be positive; it is ", call.result.scale);
    return {};
}

}  // namespace dsa::latent_tile
