// The Walsh-Hadamard transform of 32 x own numbers, `own` neighbours a lane: the rounds of the low bits are within a
// lane, those of the five high ones are shuffles between lanes. No shared memory, no barrier.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

// v becomes v H / sqrt(32 own), in float32. All lanes come.
template <int own>
__device__ void hadamard_in_registers(float (&v)[own]) {
#pragma unroll
    for (int bit = 1; bit < own; bit *= 2)
#pragma unroll
        for (int i = 0; i < own; ++i)
            if ((i & bit) == 0) {
                const float a = v[i];
                v[i] = a + v[i + bit];
                v[i + bit] = a - v[i + bit];
            }
#pragma unroll
    for (int flip = 1; flip < warp_size; flip *= 2)
#pragma unroll
        for (int i = 0; i < own; ++i) {
            const float other = __shfl_xor_sync(all_lanes, v[i], flip);
            v[i] = (lane_id() & flip) == 0 ? v[i] + other : other - v[i];
        }
    const float norm = 1.0F / sqrtf(static_cast<float>(own * warp_size));
#pragma unroll
    for (int i = 0; i < own; ++i) v[i] *= norm;
}

}  // namespace dsa
