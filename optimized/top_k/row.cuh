// A row's candidates, and what a row says when there is nothing to choose. Threads of a block do these together.
#pragma once

#include "optimized/top_k/op.h"
#include "optimized/top_k/select.cuh"

namespace dsa {

inline constexpr std::int32_t no_position = 0x7fffffff;

struct RowOfScores {
    const float* scores;  // [size], the first at position `begin`
    std::int64_t begin, count;

    __device__ std::int64_t size() const { return count; }
    __device__ Candidate candidate(std::int64_t i) const {
        return {key_of(scores[i]), static_cast<std::int32_t>(begin + i)};
    }
};

__device__ inline RowOfScores row_of(const TopK& call, std::int64_t t) {
    const std::int64_t begin = max(std::int64_t{call.start[t]}, std::int64_t{0});
    const std::int64_t end = min(std::int64_t{call.end[t]}, call.S);
    return {call.logits + t * call.S + begin, begin, max(end - begin, std::int64_t{0})};
}

// -1 in the slots from `first`.
__device__ inline void leave_unused(std::int32_t* indices, std::int64_t first, std::int64_t k) {
    for (std::int64_t i = first + threadIdx.x; i < k; i += blockDim.x) indices[i] = -1;
}

// The row's answer to a NaN at `position`: op.h.
__device__ inline void tell_nan(std::int32_t* indices, std::int64_t k, std::int32_t position) {
    leave_unused(indices, 1, k);
    if (threadIdx.x == 0) indices[0] = -2 - position;
}

// No more candidates than slots: all of them.
__device__ inline void take_all(std::int32_t* indices, std::int64_t k, std::int64_t begin, std::int64_t count) {
    for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) indices[i] = static_cast<std::int32_t>(begin + i);
    leave_unused(indices, count, k);
}

}  // namespace dsa
