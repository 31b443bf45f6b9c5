// A dot of two float32 vectors, in one thread, and what ReLU makes of it.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

__device__ inline float dot(const float* a, const float* b, std::int64_t n) {
    float sum = 0.0F;
    for (std::int64_t c = 0; c < n; ++c) sum += a[c] * b[c];
    return sum;
}

// A NaN stays one, where max(0, x) would make a 0 of it.
__device__ inline float relu(float x) { return x <= 0.0F ? 0.0F : x; }

}  // namespace dsa
