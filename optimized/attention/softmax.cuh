// What all attention kernels share: where the results go, the running softmax, and how its end is told.
#pragma once

#include "optimized/attention/result.h"
#include "optimized/hopper/numbers.h"

namespace dsa {

__device__ inline float minus_infinity() { return __uint_as_float(0xff800000U); }

// By what sums made under the maximum `before` are multiplied when it becomes `after`; 1 while nothing was seen.
__device__ inline float rescaling(float before, float after) { return before == after ? 1.0F : expf(before - after); }

// sum exp(logit - maximum), and a sink's share, which joins the denominator only. A reference below the
// maximum serves as well, but that a sink is infinite as much sooner.
__device__ inline float denominator(const AttentionResult& result, std::int64_t head, float maximum, float sum) {
    return result.sink == nullptr ? sum : sum + expf(result.sink[head] - maximum);
}

__device__ inline float told_lse(const AttentionResult& result, float maximum, float sum) {
    constexpr float one_over_ln2 = 1.44269504088896340736F;
    if (maximum == minus_infinity()) return result.plus_infinity ? -minus_infinity() : minus_infinity();
    const float lse = maximum + logf(sum);
    return result.base2 ? lse * one_over_ln2 : lse;
}

}  // namespace dsa
