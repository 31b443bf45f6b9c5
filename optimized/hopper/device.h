// What every kernel needs from the device: CUDA's own words, shared memory, and sums over a warp or a block. The only
// folder with PTX is this one; on a machine without a GPU the same names lead to the simulator.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(DSA_SIMULATOR)
#include "optimized/simulator/cuda.h"
#include "optimized/simulator/swizzle.h"
#else
#include <cuda_runtime.h>
#endif

namespace dsa {

// Where a kernel calls from: a source line for the simulator's sentences, nothing on the GPU.
#if defined(DSA_SIMULATOR)
using simulator::Where;
#else
struct Where {
    __host__ __device__ static constexpr Where current() { return {}; }
};
#endif

inline constexpr unsigned all_lanes = 0xffffffffU;
inline constexpr int warp_size = 32;

// The block's dynamic shared memory as a struct of the kernel's own. launch() is told sizeof(T).
template <class T>
__device__ T& shared() {
#if defined(DSA_SIMULATOR)
    simulator::Block& block = *simulator::this_thread().block;
    if (sizeof(T) > block.shape().shared_bytes)
        throw simulator::Fault("a kernel uses " + std::to_string(sizeof(T)) +
                               " bytes of shared memory; it was launched with " +
                               std::to_string(block.shape().shared_bytes));
    return *reinterpret_cast<T*>(block.shared());
#else
    extern __shared__ __align__(1024) unsigned char raw[];
    return *reinterpret_cast<T*>(raw);
#endif
}

// An address in the block's shared memory as PTX and wgmma's descriptors want it: 32 bits.
__device__ inline std::uint32_t shared_address(const void* p) {
#if defined(DSA_SIMULATOR)
    const auto* byte = static_cast<const std::byte*>(p);
    return static_cast<std::uint32_t>(byte - simulator::this_thread().block->shared()) + simulator::shared_window;
#else
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
#endif
}

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % warp_size; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) / warp_size; }

struct Sum {
    template <class T>
    __device__ T operator()(T a, T b) const {
        return a + b;
    }
};
struct Largest {
    template <class T>
    __device__ T operator()(T a, T b) const {
        return a < b ? b : a;
    }
};

// Every lane gets the fold of all lanes' values, in the same order in each lane: the same bits everywhere.
template <class Fold, class T>
__device__ T over_warp(T value, Fold fold) {
#pragma unroll
    for (int flip = warp_size / 2; flip > 0; flip /= 2) {
        const T other = __shfl_xor_sync(all_lanes, value, flip);
        value = fold(value, other);
    }
    return value;
}

// The fold of all threads' values, to every thread. `scratch` has a place a warp and may be used again at once.
template <class Fold, class T>
__device__ T over_block(T value, T (&scratch)[32], Fold fold) {
    value = over_warp(value, fold);
    if (lane_id() == 0) scratch[warp_id()] = value;
    __syncthreads();
    const int warps = static_cast<int>(blockDim.x) / warp_size;
    T total = scratch[0];
    for (int w = 1; w < warps; ++w) total = fold(total, scratch[w]);
    __syncthreads();
    return total;
}

}  // namespace dsa
