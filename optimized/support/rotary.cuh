// Turning one pair of numbers by position x frequency. The angle is a float32 product; its sine and cosine are taken
// in float64, since at position 100,000 a fast float32 sine has no right digit left.
#pragma once

#include "optimized/hopper/device.h"
#include "optimized/support/rotary.h"

namespace dsa {

struct Turn {
    float cosine, sine;
};

__device__ inline Turn turn_of(std::int32_t position, float frequency) {
    const double angle = static_cast<float>(position) * frequency;
    return {static_cast<float>(cos(angle)), static_cast<float>(sin(angle))};
}

// Where the two numbers of pair i stand among 2 x pairs.
__device__ inline int first_of(RopeLayout layout, int i) { return layout == RopeLayout::interleaved ? 2 * i : i; }
__device__ inline int second_of(RopeLayout layout, int i, int pairs) {
    return layout == RopeLayout::interleaved ? 2 * i + 1 : i + pairs;
}

}  // namespace dsa
