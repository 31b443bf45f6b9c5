// CUDA's words in plain C++: what a kernel's source needs in order to compile with the host's compiler and run on the
// simulator. Only what our kernels use; hopper/ has the rest.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "optimized/simulator/cluster.h"
#include "optimized/simulator/order.h"

#define __global__
#define __device__
#define __host__
#define __constant__ constexpr
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

// By value: what a kernel reads through a reference counts as its access of memory.
#define threadIdx (::dsa::simulator::thread_index())
#define blockIdx (::dsa::simulator::block_index())
#define blockDim (::dsa::simulator::block_dim())
#define gridDim (::dsa::simulator::grid_dim())

using std::max;
using std::min;

inline void __syncthreads(dsa::simulator::Where where = dsa::simulator::Where::current()) {
    dsa::simulator::this_thread().block->barrier_of_all(where);
}

namespace dsa::simulator {

std::uint64_t bits_of_lane(std::uint32_t mask, std::uint64_t bits, unsigned source, const char* what, Where where);
// Who of the mask's lanes votes for it.
std::uint32_t votes(std::uint32_t mask, bool vote, const char* what, Where where);

// What lane `source` brought; each lane brings `value`.
template <class T>
T from_lane(std::uint32_t mask, T value, unsigned source, const char* what, Where where) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = bits_of_lane(mask, bits, source, what, where);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace dsa::simulator

template <class T>
T __shfl_sync(std::uint32_t mask, T value, int source,
              dsa::simulator::Where where = dsa::simulator::Where::current()) {
    return dsa::simulator::from_lane(mask, value, static_cast<unsigned>(source), "__shfl_sync", where);
}
template <class T>
T __shfl_xor_sync(std::uint32_t mask, T value, int flip,
                  dsa::simulator::Where where = dsa::simulator::Where::current()) {
    const unsigned source = dsa::simulator::this_thread().lane() ^ static_cast<unsigned>(flip);
    return dsa::simulator::from_lane(mask, value, source, "__shfl_xor_sync", where);
}
// Past the end, a lane keeps its own.
template <class T>
T __shfl_down_sync(std::uint32_t mask, T value, unsigned delta,
                   dsa::simulator::Where where = dsa::simulator::Where::current()) {
    const unsigned lane = dsa::simulator::this_thread().lane();
    return dsa::simulator::from_lane(mask, value, lane + delta < 32 ? lane + delta : lane, "__shfl_down_sync", where);
}
template <class T>
T __shfl_up_sync(std::uint32_t mask, T value, unsigned delta,
                 dsa::simulator::Where where = dsa::simulator::Where::current()) {
    const unsigned lane = dsa::simulator::this_thread().lane();
    return dsa::simulator::from_lane(mask, value, lane >= delta ? lane - delta : lane, "__shfl_up_sync", where);
}
inline std::uint32_t __ballot_sync(std::uint32_t mask, bool vote,
                                   dsa::simulator::Where where = dsa::simulator::Where::current()) {
    return dsa::simulator::votes(mask, vote, "__ballot_sync", where);
}
inline bool __any_sync(std::uint32_t mask, bool vote,
                       dsa::simulator::Where where = dsa::simulator::Where::current()) {
    return __ballot_sync(mask, vote, where) != 0;
}
inline bool __all_sync(std::uint32_t mask, bool vote,
                       dsa::simulator::Where where = dsa::simulator::Where::current()) {
    return __ballot_sync(mask, vote, where) == mask;
}
inline void __syncwarp(std::uint32_t mask = 0xffffffffU,
                       dsa::simulator::Where where = dsa::simulator::Where::current()) {
    dsa::simulator::this_thread().block->exchange(mask, 0, "__syncwarp", where, nullptr, true);
}

// Blocks run on several threads of the operating system, so atomics are real ones.
template <class T>
T atomicAdd(T* address, T value) {
    return std::atomic_ref<T>(*address).fetch_add(value, std::memory_order_relaxed);
}
template <class T>
T atomicMax(T* address, T value) {
    std::atomic_ref<T> place(*address);
    T old = place.load(std::memory_order_relaxed);
    while (old < value && !place.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
    }
    return old;
}
template <class T>
T atomicMin(T* address, T value) {
    std::atomic_ref<T> place(*address);
    T old = place.load(std::memory_order_relaxed);
    while (value < old && !place.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
    }
    return old;
}
template <class T>
T atomicCAS(T* address, T expected, T wanted) {
    std::atomic_ref<T>(*address).compare_exchange_strong(expected, wanted, std::memory_order_relaxed);
    return expected;
}
inline std::uint32_t atomicOr(std::uint32_t* address, std::uint32_t value) {
    return std::atomic_ref<std::uint32_t>(*address).fetch_or(value, std::memory_order_relaxed);
}

inline int __popc(std::uint32_t x) { return std::popcount(x); }
inline int __clz(std::uint32_t x) { return std::countl_zero(x); }
inline int __ffs(std::uint32_t x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
inline std::uint32_t __float_as_uint(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }  // never part of a fused multiply-add
inline float __uint_as_float(std::uint32_t x) { return std::bit_cast<float>(x); }
inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }
