// Blocks of a cluster (Launch::cluster) run at the same time and reach each other's shared memory. A block must not end
// while others still reach into it. PTX ISA, "barrier.cluster", "mapa", "Special registers: %cluster_ctarank".
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

__device__ int cluster_rank();
__device__ int cluster_size();

// All threads of the cluster: each arrives, and later waits. What was written before arriving is seen after waiting,
// but not what was written before cluster_arrive_relaxed.
__device__ void cluster_arrive(Where where = Where::current());
__device__ void cluster_arrive_relaxed(Where where = Where::current());
__device__ void cluster_wait(Where where = Where::current());
__device__ inline void cluster_sync(Where where = Where::current()) {
    cluster_arrive(where);
    cluster_wait(where);
}

// What block `rank` has in its shared memory where this block has `mine`: for plain loads, stores and atomics.
template <class T>
__device__ T* of_block(T* mine, int rank, Where where = Where::current());

#if defined(DSA_SIMULATOR)

inline int cluster_rank() { return static_cast<int>(simulator::this_thread().block->rank()); }
inline int cluster_size() { return static_cast<int>(simulator::this_thread().block->cluster().size()); }
inline void cluster_arrive(Where where) { simulator::this_thread().block->cluster().arrive(true, where); }
inline void cluster_arrive_relaxed(Where where) { simulator::this_thread().block->cluster().arrive(false, where); }
inline void cluster_wait(Where where) { simulator::this_thread().block->cluster().wait(where); }
template <class T>
T* of_block(T* mine, int rank, Where where) {
    return static_cast<T*>(
        simulator::this_thread().block->cluster().of_rank(mine, static_cast<unsigned>(rank), where));
}

#else

__device__ inline int cluster_rank() {
    int rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ inline int cluster_size() {
    int size;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}
__device__ inline void cluster_arrive(Where) {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ inline void cluster_arrive_relaxed(Where) {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait(Where) { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
template <class T>
__device__ inline T* of_block(T* mine, int rank, Where) {
    T* there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(mine), "r"(rank));
    return there;
}

#endif

}  // namespace dsa
