// How a token of the FP8 cache is written, wherever its slot lies. A token's bytes need not begin at a multiple of 4
// in tiny models, so numbers of several bytes are written byte by byte.
#pragma once

#include "optimized/hopper/numbers.h"
#include "optimized/hopper/warp.h"
#include "optimized/support/quantize.cuh"

namespace dsa {

// Numbers of a latent that share a scale, as e4m3, and their scale; all lanes of a warp come.
// latent: [block] -> bytes: [block], scale: [4]
__device__ inline void pack_latent_block(const bf16* latent, int block, std::uint8_t* bytes, std::uint8_t* scale,
                                         Quantizer quantizer, bool ue8m0) {
    float amax = 0.0F;
    for (int i = lane_id(); i < block; i += warp_size) amax = fmaxf(amax, fabsf(to_float(latent[i])));
    const float by = block_scale(over_warp(amax, Largest()), quantizer, ue8m0);
    for (int i = lane_id(); i < block; i += warp_size) bytes[i] = to_e4m3(to_float(latent[i]) / by).bits;
    const std::uint32_t bits = __float_as_uint(by);
    if (lane_id() < 4) scale[lane_id()] = static_cast<std::uint8_t>(bits >> (8 * lane_id()));
}

// rope: [d_rope] -> bytes: [2 d_rope]
__device__ inline void pack_rope(const bf16* rope, int d_rope, std::uint8_t* bytes) {
    for (int i = lane_id(); i < d_rope; i += warp_size) {
        bytes[2 * i] = static_cast<std::uint8_t>(rope[i].bits);
        bytes[2 * i + 1] = static_cast<std::uint8_t>(rope[i].bits >> 8);
    }
}

}  // namespace dsa
