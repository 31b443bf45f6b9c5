// Tensor copies: what a box of a tensor looks like in shared memory, and what a tile leaves in a tensor.
#pragma once

#include "experiment.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/tma.h"

namespace dsa::conformance {

inline constexpr int tile_bytes = 16 << 10;
struct Tile {
    alignas(1024) unsigned char bytes[tile_bytes];
    Mbarrier full;
};

struct Coordinates {
    int at[5];
};
template <int rank>
__device__ void tma_load_at(Tile& memory, int offset, const TensorMap& map, const Coordinates& c) {
    int at[rank];
#pragma unroll
    for (int d = 0; d < rank; ++d) at[d] = c.at[d];
    tma_load(memory.bytes + offset, map, at, memory.full);
}

// The whole tile's bytes after a load of one box to byte `offset`; the rest is 0x55.
template <int rank>
__global__ void load_box(const __grid_constant__ TensorMap map, Coordinates c, int offset, int bytes,
                         unsigned char* y) {
    Tile& memory = shared<Tile>();
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < tile_bytes; i += 128) memory.bytes[i] = 0x55;
    if (thread == 0) {
        mbarrier_init(memory.full, 1);
        fence_mbarrier_init();
    }
    fence_proxy_async();
    __syncthreads();
    if (thread == 0) {
        mbarrier_arrive_expect(memory.full, bytes);
        tma_load_at<rank>(memory, offset, map, c);
    }
    mbarrier_wait(memory.full, 0);
    for (int i = thread; i < tile_bytes; i += 128) y[i] = memory.bytes[i];
}

// Bytes 0, 1, 2, ... of shared memory to a box; or added to it as float32 numbers.
template <int rank, bool adds>
__global__ void store_box(const __grid_constant__ TensorMap map, Coordinates c) {
    Tile& memory = shared<Tile>();
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < tile_bytes / 4; i += 128) {
        if (adds)
            reinterpret_cast<float*>(memory.bytes)[i] = static_cast<float>(i % 100);
        else
            reinterpret_cast<int*>(memory.bytes)[i] = i * 0x01010101 % 0x7fffffff;
    }
    fence_proxy_async();
    __syncthreads();
    if (thread == 0) {
        int at[rank];
#pragma unroll
        for (int d = 0; d < rank; ++d) at[d] = c.at[d];
        if constexpr (adds)
            tma_add(map, at, memory.bytes);
        else
            tma_store(map, at, memory.bytes);
        bulk_commit();
        bulk_wait<0>();
    }
}

// Rows that lie anywhere: one load a row, each to its place of a swizzled tile.
static __global__ void gather_rows(const __grid_constant__ TensorMap map, const int* rows, int count, int row_bytes,
                                   unsigned char* y) {
    Tile& memory = shared<Tile>();
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        mbarrier_init(memory.full, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (thread == 0) mbarrier_arrive_expect(memory.full, count * row_bytes);
    __syncwarp();
    if (thread < 32)
        for (int r = thread; r < count; r += 32)
            tma_load(memory.bytes + r * row_bytes, map, {0, rows[r]}, memory.full);
    mbarrier_wait(memory.full, 0);
    for (int i = thread; i < count * row_bytes; i += 128) y[i] = memory.bytes[i];
}

// Block 1 of a cluster of two loads for both.
static __global__ void load_for_both(const __grid_constant__ TensorMap map, int bytes, unsigned char* y) {
    Tile& memory = shared<Tile>();
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) {
        mbarrier_init(memory.full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(memory.full, bytes);
    }
    cluster_sync();
    if (thread == 0 && cluster_rank() == 1) tma_load_multicast(memory.bytes, map, {0, 3}, memory.full, 0b11);
    mbarrier_wait(memory.full, 0);
    for (int i = thread; i < bytes; i += 128) y[static_cast<int>(blockIdx.x) * bytes + i] = memory.bytes[i];
    cluster_sync();
}

}  // namespace dsa::conformance
