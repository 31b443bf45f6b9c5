// Which positions a query is trained on: all causal ones, or those of its selection.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

struct Candidates {
    const std::int32_t* kept;  // [T, n], or null: query t sees the S - T + t + 1 first of n = S positions
    std::int64_t T, S, n;

    __device__ std::int64_t last_seen(std::int64_t t) const { return S - T + t; }
    // -1: none
    __device__ std::int64_t position(std::int64_t t, std::int64_t slot) const {
        if (kept != nullptr) return kept[t * n + slot];
        return slot <= last_seen(t) ? slot : -1;
    }
};

}  // namespace dsa
