// A token of V3.2's FP8 cache: 512 codes of the latent, a scale for each 128 of them, 64 rotated columns in bf16. And how
// warps tell that a tile is full or free.
#pragma once

#include "optimized/hopper/cluster.h"
#include "optimized/hopper/mbarrier.h"

namespace dsa::cached_tiles {

constexpr int latent = 512, rotated = 64, width = latent + rotated;
constexpr int scaled = 128;  // columns that share a scale
constexpr int token_bytes = latent + 4 * (latent / scaled) + 2 * rotated;

// All that this warp has written is told.
__device__ inline void warp_arrives(Mbarrier& barrier) {
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(barrier);
}
// The tile (or half of it) is free, say this warp's lanes together, to every block that writes into it.
template <int blocks>
__device__ void release(Mbarrier& empty) {
    if constexpr (blocks == 1) return warp_arrives(empty);
    __syncwarp();
    if (lane_id() < blocks) mbarrier_arrive_at(empty, lane_id());
}
}  // namespace dsa::cached_tiles
