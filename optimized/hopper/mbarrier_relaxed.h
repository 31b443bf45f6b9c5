// Arrivals at another block's mbarrier that release nothing. `mbarrier_arrive_at` releases at the cluster's scope,
// and ptxas makes of that a MEMBAR for the whole GPU: 1400 clocks where they were counted. Who has only read what the
// other block will write over, and has what it read (a product that was waited for, a load whose value was used), has
// nothing to release. PTX ISA, "mbarrier.arrive": .relaxed.
#pragma once

#include "optimized/hopper/mbarrier.h"

namespace dsa {

// At the barrier that block `rank` of the cluster has where this block has `barrier`. What this thread wrote is not
// told; the simulator, which knows one kind of arrival, would not notice if somebody relied on it.
__device__ void mbarrier_arrive_at_relaxed(Mbarrier& barrier, int rank, Where where = Where::current());

#if defined(DSA_SIMULATOR)

inline void mbarrier_arrive_at_relaxed(Mbarrier& barrier, int rank, Where where) {
    mbarrier_arrive_at(barrier, rank, where);
}

#else

__device__ inline void mbarrier_arrive_at_relaxed(Mbarrier& barrier, int rank, Where) {
    asm volatile(
        "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
        "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [there]; }" ::"r"(shared_address(&barrier)),
        "r"(rank)
        : "memory");
}

#endif

}  // namespace dsa
