// Scores as whole numbers of the same order, and where a block's threads stand among each other.
#pragma once

#include "optimized/hopper/warp.h"

namespace dsa {

__device__ inline bool is_nan(float score) { return !(score == score); }

// A better score has a larger key; equal scores, 0.0 and -0.0 among them, have equal ones; NaN has that of -inf.
__device__ inline std::uint32_t key_of(float score) {
    constexpr std::uint32_t sign = 0x80000000U;
    constexpr std::uint32_t key_of_minus_infinity = 0x007fffffU;
    const std::uint32_t bits = __float_as_uint(score + 0.0F);  // makes 0.0 of -0.0
    const std::uint32_t key = bits ^ (static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31) | sign);
    return is_nan(score) ? key_of_minus_infinity : key;
}

// key_of's inverse; of a key that no score has, a NaN or -0.0.
__device__ inline float score_of(std::uint32_t key) {
    constexpr std::uint32_t sign = 0x80000000U;
    return __uint_as_float((key & sign) != 0 ? key ^ sign : ~key);
}

// What a score must exceed if its key is to be `key` or larger. -0.0 has 0.0's key, not the one below.
__device__ inline float just_below(std::uint32_t key) {
    constexpr std::uint32_t of_zero = 0x80000000U;
    return score_of(key == of_zero ? key - 2 : key - 1);
}

// The sum of the values of all threads before this one, and of all. `scratch` has a place a warp and may be used
// again at once.
struct SumBefore {
    std::uint32_t before, all;
};
__device__ inline SumBefore sum_before(std::uint32_t value, std::uint32_t (&scratch)[32]) {
    std::uint32_t sum = value;
#pragma unroll
    for (unsigned delta = 1; delta < warp_size; delta *= 2) {
        const std::uint32_t other = __shfl_up_sync(all_lanes, sum, delta);
        if (lane_id() >= static_cast<int>(delta)) sum += other;
    }
    if (lane_id() == warp_size - 1) scratch[warp_id()] = sum;
    __syncthreads();
    const int warps = static_cast<int>(blockDim.x) / warp_size;
    const std::uint32_t of_warp = lane_id() < warps ? scratch[lane_id()] : 0;
    const std::uint32_t before = redux_add(lane_id() < warp_id() ? of_warp : 0U);
    const SumBefore result{before + sum - value, redux_add(of_warp)};
    __syncthreads();
    return result;
}

}  // namespace dsa
