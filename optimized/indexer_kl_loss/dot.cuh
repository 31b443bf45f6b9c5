// A dot of two float32 vectors, in one thread.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

__device__ inline float dot(const float* a, const float* b, std::int64_t n) {
    float sum = 0.0F;
    for (std::int64_t c = 0; c < n; ++c) sum += a[c] * b[c];
    return sum;
}

}  // namespace dsa
