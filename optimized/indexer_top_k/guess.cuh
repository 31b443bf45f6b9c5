// What a query's candidates must exceed, going by the scores of a sample of the keys. It decides how fast it goes,
// never what is chosen.
#pragma once

#include "optimized/hopper/warp.h"
#include "optimized/indexer_top_k/run_lists.h"
#include "optimized/top_k/row.cuh"

namespace dsa {

inline constexpr int guessing_threads = 128;
inline constexpr int guessed_at_once = guessing_threads / warp_size;  // queries, by a block

// The sample's key i: one of each stretch of S / sampled, not always the same one, since texts have periods too.
__device__ inline std::int64_t sampled_key(std::int64_t i, std::int64_t S) {
    const std::int64_t stretch = S / sampled;
    return i * stretch + i * 40503 % stretch;
}

// How many of the sample come before key s.
__device__ inline int sampled_before(std::int64_t s, std::int64_t S) {
    const std::int64_t i = max(s, std::int64_t{0}) / (S / sampled);
    if (i >= sampled) return static_cast<int>(sampled);
    return static_cast<int>(i) + (sampled_key(i, S) < s ? 1 : 0);
}

// A warp a key; then a thread a query.
__global__ void __launch_bounds__(guessing_threads)
    take_sample(__grid_constant__ const IndexerLogits call, __grid_constant__ const Sample sample,
                std::int32_t* again, std::int64_t groups) {
    const std::int64_t thread = std::int64_t{blockIdx.x} * guessing_threads + threadIdx.x;
    const std::int64_t threads = std::int64_t{gridDim.x} * guessing_threads;
    for (std::int64_t i = thread / warp_size; i < sampled; i += threads / warp_size) {
        const std::int64_t s = sampled_key(i, call.S);
        for (int at = lane_id(); at < call.D_I; at += warp_size)
            sample.k[i * call.D_I + at] = call.k[s * call.D_I + at];
        if (lane_id() == 0) sample.k_scale[i] = call.k_scale[s];
    }
    for (std::int64_t t = thread; t < call.T; t += threads) {
        sample.start[t] = sampled_before(call.start[t], call.S);
        sample.end[t] = sampled_before(min(std::int64_t{call.end[t]}, call.S), call.S);
    }
    for (std::int64_t group = thread; group < groups; group += threads) again[group] = 0;
}

// One warp a query: as many of the sample are among the best, four standard deviations included. What they reach is
// found bit by bit, in registers, and no further than to nine bits of a score's fraction.
__global__ void __launch_bounds__(guessing_threads)
    guess(__grid_constant__ const IndexerTopK call, __grid_constant__ const Sample sample) {
    const std::int64_t t = std::int64_t{blockIdx.x} * guessed_at_once + warp_id();
    if (t >= call.scoring.T) return;
    const std::int64_t size = min(std::int64_t{call.scoring.end[t]}, call.scoring.S) - max(call.scoring.start[t], 0);
    const RowOfScores row{sample.logits + t * sampled + sample.start[t], 0, max(sample.end[t] - sample.start[t], 0)};
    const float expected =
        static_cast<float>(row.count) * static_cast<float>(call.k) / static_cast<float>(max(size, std::int64_t{1}));
    const float rank = expected + 4.0F * sqrtf(expected) + 4.0F;
    constexpr int own = sampled / warp_size;
    std::uint32_t keys[own];
#pragma unroll
    for (int i = 0; i < own; ++i) {
        const int at = i * warp_size + lane_id();
        keys[i] = at < row.count ? key_of(row.scores[at]) : 0;
    }
    std::uint32_t reached = 0;
    constexpr int lowest_bit = 23 - 9;
    for (int bit = key_bits - 1; bit >= lowest_bit; --bit) {
        const std::uint32_t higher = reached | 1U << bit;
        int mine = 0;
#pragma unroll
        for (int i = 0; i < own; ++i) mine += keys[i] >= higher ? 1 : 0;
        if (static_cast<float>(redux_add(mine)) >= rank) reached = higher;
    }
    // Where the sample is too small, a NaN, which every score exceeds.
    if (lane_id() == 0) sample.guesses[t] = rank < static_cast<float>(row.count) ? just_below(reached) : score_of(0);
}

}  // namespace dsa
