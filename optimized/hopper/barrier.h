// The block's 16 named barriers: some warps of a block wait for each other, and others only say that they have come.
// Number 0 is __syncthreads'. `threads` counts those who sync and those who arrive, whole warps. What was written
// before coming is seen by those who have waited. PTX ISA, "bar, barrier".
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

__device__ void barrier_sync(int number, int threads, Where where = Where::current());
__device__ void barrier_arrive(int number, int threads, Where where = Where::current());

#if defined(DSA_SIMULATOR)

inline void barrier_sync(int number, int threads, Where where) {
    simulator::this_thread().block->named_barrier(static_cast<unsigned>(number), static_cast<unsigned>(threads), true,
                                                  where);
}
inline void barrier_arrive(int number, int threads, Where where) {
    simulator::this_thread().block->named_barrier(static_cast<unsigned>(number), static_cast<unsigned>(threads), false,
                                                  where);
}

#else

__device__ inline void barrier_sync(int number, int threads, Where) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ inline void barrier_arrive(int number, int threads, Where) {
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

#endif

}  // namespace dsa
