// A named barrier (hopper/barrier.h) at which all who sync also hear whether any of them brought true. PTX ISA, "bar,
// barrier": .red.or.
#pragma once

#include "optimized/hopper/device.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/votes.h"
#endif

namespace dsa {

__device__ bool barrier_any(int number, int threads, bool mine, Where where = Where::current());

#if defined(DSA_SIMULATOR)

inline bool barrier_any(int number, int threads, bool mine, Where where) {
    return simulator::any_at_barrier(static_cast<unsigned>(number), static_cast<unsigned>(threads), mine, where);
}

#else

__device__ inline bool barrier_any(int number, int threads, bool mine, Where) {
    std::uint32_t any;
    asm volatile("{ .reg .pred p, q; setp.ne.u32 q, %3, 0; bar.red.or.pred p, %1, %2, q; selp.b32 %0, 1, 0, p; }"
                 : "=r"(any)
                 : "r"(number), "r"(threads), "r"(mine ? 1U : 0U)
                 : "memory");
    return any != 0;
}

#endif

}  // namespace dsa
