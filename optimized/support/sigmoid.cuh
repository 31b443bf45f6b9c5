// 1 / (1 + exp(-x)), without overflow at either end.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

__device__ inline float sigmoid(float x) {
    const float small = expf(-fabsf(x));  // of negative numbers only: nothing overflows
    return x >= 0.0F ? 1.0F / (1.0F + small) : small / (1.0F + small);
}

}  // namespace dsa
