// A barrier in shared memory that counts arrivals of threads and bytes of copies. A phase is complete when as many
// arrivals as init() said have come and no expected byte is under way; then the next phase begins. Phases are waited
// for by parity: 0 for the first, 1 for the second, 0 for the third. PTX ISA, "mbarrier".
//
//     one thread   mbarrier_init(full, 1); fence_mbarrier_init();
//     everybody    __syncthreads() or cluster_sync()
//     producer     mbarrier_arrive_expect(full, bytes); tma_load(..., full);
//     consumer     mbarrier_wait(full, parity); parity ^= 1;
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

struct alignas(8) Mbarrier {
    std::uint64_t state;
};

__device__ void mbarrier_init(Mbarrier& barrier, int arrivals, Where where = Where::current());
__device__ void mbarrier_invalidate(Mbarrier& barrier, Where where = Where::current());
// After init: the asynchronous proxy and other blocks of the cluster may use it once they have been told of it.
__device__ void fence_mbarrier_init(Where where = Where::current());

__device__ void mbarrier_arrive(Mbarrier& barrier, int count = 1, Where where = Where::current());
// More bytes are under way in this phase; it does not end before they are there.
__device__ void mbarrier_expect(Mbarrier& barrier, int bytes, Where where = Where::current());
__device__ void mbarrier_arrive_expect(Mbarrier& barrier, int bytes, Where where = Where::current());
// At the barrier that block `rank` of the cluster has where this block has `barrier`.
__device__ void mbarrier_arrive_at(Mbarrier& barrier, int rank, Where where = Where::current());
// The same where nothing that this thread wrote is to be read by the other block: what it has read, or products and
// copies that it has waited for, may be overwritten. Releases at the block's scope; the one above is a MEMBAR for the
// whole GPU, hundreds of clocks.
__device__ void mbarrier_give_back_at(Mbarrier& barrier, int rank, Where where = Where::current());

// Whether the phase of this parity is complete; and until it is.
__device__ bool mbarrier_test(Mbarrier& barrier, int parity, Where where = Where::current());
__device__ void mbarrier_wait(Mbarrier& barrier, int parity, Where where = Where::current());
// The same where only this block's threads and copies arrive: acquires at the block's scope, which leaves the L1
// cache alone.
__device__ void mbarrier_wait_in_block(Mbarrier& barrier, int parity, Where where = Where::current());

#if defined(DSA_SIMULATOR)

namespace simulator {
inline Mbarriers& mbarriers() { return this_thread().block->cluster().mbarriers; }
}  // namespace simulator

inline void mbarrier_init(Mbarrier& barrier, int arrivals, Where where) {
    simulator::mbarriers().init(&barrier.state, static_cast<std::uint32_t>(arrivals), where);
}
inline void mbarrier_invalidate(Mbarrier& barrier, Where where) {
    simulator::mbarriers().invalidate(&barrier.state, where);
}
inline void fence_mbarrier_init(Where) { simulator::mbarriers().fence(simulator::this_thread()); }
inline void mbarrier_arrive(Mbarrier& barrier, int count, Where where) {
    simulator::mbarriers().arrive(&barrier.state, static_cast<std::uint32_t>(count), where);
}
inline void mbarrier_expect(Mbarrier& barrier, int bytes, Where where) {
    simulator::mbarriers().expect_bytes(&barrier.state, static_cast<std::uint32_t>(bytes), where);
}
inline void mbarrier_arrive_expect(Mbarrier& barrier, int bytes, Where where) {
    mbarrier_expect(barrier, bytes, where);
    mbarrier_arrive(barrier, 1, where);
}
inline void mbarrier_arrive_at(Mbarrier& barrier, int rank, Where where) {
    void* there = simulator::this_thread().block->cluster().of_rank(&barrier, static_cast<unsigned>(rank), where);
    simulator::mbarriers().arrive(&static_cast<Mbarrier*>(there)->state, 1, where);
}
inline void mbarrier_give_back_at(Mbarrier& barrier, int rank, Where where) {
    mbarrier_arrive_at(barrier, rank, where);
}
inline bool mbarrier_test(Mbarrier& barrier, int parity, Where where) {
    return simulator::mbarriers().test(&barrier.state, static_cast<std::uint32_t>(parity), where);
}
inline void mbarrier_wait(Mbarrier& barrier, int parity, Where where) {
    simulator::mbarriers().wait(&barrier.state, static_cast<std::uint32_t>(parity), where);
}
inline void mbarrier_wait_in_block(Mbarrier& barrier, int parity, Where where) {
    mbarrier_wait(barrier, parity, where);
}

#else

__device__ inline void mbarrier_init(Mbarrier& barrier, int arrivals, Where) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}
__device__ inline void mbarrier_invalidate(Mbarrier& barrier, Where) {
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(&barrier)) : "memory");
}
__device__ inline void fence_mbarrier_init(Where) {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void mbarrier_arrive(Mbarrier& barrier, int count, Where) {
    asm volatile(
        "{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0], %1; }" ::"r"(shared_address(&barrier)),
        "r"(count)
        : "memory");
}
__device__ inline void mbarrier_expect(Mbarrier& barrier, int bytes, Where) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
                 "r"(bytes)
                 : "memory");
}
__device__ inline void mbarrier_arrive_expect(Mbarrier& barrier, int bytes, Where) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(
                     shared_address(&barrier)),
                 "r"(bytes)
                 : "memory");
}
__device__ inline void mbarrier_arrive_at(Mbarrier& barrier, int rank, Where) {
    asm volatile(
        "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there]; }" ::"r"(shared_address(&barrier)),
        "r"(rank)
        : "memory");
}
__device__ inline void mbarrier_give_back_at(Mbarrier& barrier, int rank, Where) {
    asm volatile(
        "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
        "mbarrier.arrive.release.cta.shared::cluster.b64 _, [there]; }" ::"r"(shared_address(&barrier)),
        "r"(rank)
        : "memory");
}
__device__ inline bool mbarrier_test(Mbarrier& barrier, int parity, Where) {
    std::uint32_t complete;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
                 : "=r"(complete)
                 : "r"(shared_address(&barrier)), "r"(parity)
                 : "memory");
    return complete != 0;
}
// try_wait may give up after a time of the hardware's choice: asked again. Acquires at the cluster's scope, so that
// it also serves for arrivals from other blocks.
__device__ inline void mbarrier_wait(Mbarrier& barrier, int parity, Where) {
    std::uint32_t complete = 0;
    while (complete == 0)
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; "
            "selp.b32 %0, 1, 0, p; }"
            : "=r"(complete)
            : "r"(shared_address(&barrier)), "r"(parity)
            : "memory");
}
__device__ inline void mbarrier_wait_in_block(Mbarrier& barrier, int parity, Where) {
    std::uint32_t complete = 0;
    while (complete == 0)
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; "
            "}"
            : "=r"(complete)
            : "r"(shared_address(&barrier)), "r"(parity)
            : "memory");
}

#endif

}  // namespace dsa
