// A token of V3.2's FP8 cache: 512 codes of the latent, a scale for each 128 of them, 64 rotated columns in bf16. And
// how warps tell that a tile is full or free.
#pragma once

#include "optimized/hopper/cluster.h"
#include "optimized/hopper/mbarrier_relaxed.h"

namespace dsa::cached_tiles {

constexpr int latent = 512, rotated = 64, width = latent + rotated;
constexpr int scaled = 128;  // columns that share a scale
constexpr int token_bytes = latent + 4 * (latent / scaled) + 2 * rotated;

// All that this warp has written is told.
__device__ inline void warp_arrives(Mbarrier& barrier) {
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(barrier);
}
// This warp's lanes together, to every block of the cluster: what it has written is told,
template <int blocks>
__device__ void tell_cluster(Mbarrier& barrier) {
    if constexpr (blocks == 1) return warp_arrives(barrier);
    __syncwarp();
    if (lane_id() < blocks) mbarrier_arrive_at(barrier, lane_id());
}
// or: the tile (or half of it), which it has read by products and waited for, is free.
template <int blocks>
__device__ void release(Mbarrier& empty) {
    if constexpr (blocks == 1) return warp_arrives(empty);
    __syncwarp();
    if (lane_id() < blocks) mbarrier_arrive_at_relaxed(empty, lane_id());
}

}  // namespace dsa::cached_tiles
