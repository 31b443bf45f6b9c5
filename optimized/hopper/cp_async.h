// Copies of 4, 8 or 16 bytes from global to shared memory that do not pass through registers. Each thread waits for its
// own, by groups; others see them after a barrier. They go through the generic proxy: what wgmma or a bulk copy is to
// read of them needs fence_proxy_async(). PTX ISA, "cp.async".
#pragma once

#include "optimized/hopper/mbarrier.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/copies.h"
#endif

namespace dsa {

// Both addresses are multiples of `bytes`. Of the source only `source_bytes` are read, the rest is zeros.
template <int bytes>
__device__ void cp_async(void* to, const void* from, int source_bytes = bytes, Where where = Where::current());
__device__ void cp_async_commit();
// Until all groups of this thread but the last `kept` are there.
template <int kept>
__device__ void cp_async_wait(Where where = Where::current());
// One arrival when all that this thread has issued so far is there: one of those that init() counted.
__device__ void cp_async_arrive(Mbarrier& barrier, Where where = Where::current());

#if defined(DSA_SIMULATOR)

template <int bytes>
void cp_async(void* to, const void* from, int source_bytes, Where where) {
    simulator::cp_async(to, from, bytes, static_cast<unsigned>(source_bytes), where);
}
inline void cp_async_commit() { simulator::commit_copies(&simulator::Thread::cp_async); }
template <int kept>
void cp_async_wait(Where where) {
    simulator::wait_for_copies(&simulator::Thread::cp_async, kept, false, "cp.async.wait_group", where);
}
inline void cp_async_arrive(Mbarrier& barrier, Where where) {
    simulator::cp_async_arrive(&barrier.state, true, where);
}

#else

// 16 bytes pass by the L1 cache (.cg); smaller ones cannot.
template <int bytes>
__device__ inline void cp_async(void* to, const void* from, int source_bytes, Where) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    if constexpr (bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                     "r"(source_bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(bytes),
                     "r"(source_bytes)
                     : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kept>
__device__ inline void cp_async_wait(Where) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kept) : "memory");
}
__device__ inline void cp_async_arrive(Mbarrier& barrier, Where) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&barrier)) : "memory");
}

#endif

}  // namespace dsa
