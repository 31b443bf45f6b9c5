// Copies of many bytes in a row, issued by one thread and done by the copy engine through the asynchronous proxy.
// Addresses and sizes are multiples of 16. What is loaded is told to an mbarrier, byte by byte; what is stored is
// waited for by groups, by the thread that issued it. PTX ISA, "cp.async.bulk".
#pragma once

#include "optimized/hopper/mbarrier.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/copies.h"
#endif

namespace dsa {

// Global to shared memory.
__device__ void bulk_load(void* to, const void* from, int bytes, Mbarrier& barrier, Where where = Where::current());
// The same bytes to every block of the cluster whose bit is set in `blocks`, each at the place where this block has
// `to`, told to the barrier that each has where this block has `barrier`.
__device__ void bulk_load_multicast(void* to, const void* from, int bytes, Mbarrier& barrier, std::uint16_t blocks,
                                    Where where = Where::current());
// This block's shared memory to that of block `rank`, at the place where this block has `to`; told to the barrier
// that the other has where this block has `barrier`.
__device__ void bulk_send(void* to, const void* from, int bytes, Mbarrier& barrier, int rank,
                          Where where = Where::current());
// Shared to global memory.
__device__ void bulk_store(void* to, const void* from, int bytes, Where where = Where::current());
__device__ void bulk_commit();
// Asks the L2 cache to fetch; nobody waits for it.
__device__ void bulk_prefetch(const void* from, int bytes);
// Until all groups of stores of this thread but the last `kept` are done; or have only read what they store, so that
// its place may be written again.
template <int kept>
__device__ void bulk_wait(Where where = Where::current());
template <int kept>
__device__ void bulk_wait_read(Where where = Where::current());

#if defined(DSA_SIMULATOR)

inline void bulk_load(void* to, const void* from, int bytes, Mbarrier& barrier, Where where) {
    simulator::bulk_load(to, from, static_cast<std::uint32_t>(bytes), &barrier.state, 0, where);
}
inline void bulk_load_multicast(void* to, const void* from, int bytes, Mbarrier& barrier, std::uint16_t blocks,
                                Where where) {
    simulator::bulk_load(to, from, static_cast<std::uint32_t>(bytes), &barrier.state, blocks, where);
}
inline void bulk_send(void* to, const void* from, int bytes, Mbarrier& barrier, int rank, Where where) {
    simulator::Cluster& cluster = simulator::this_thread().block->cluster();
    const auto block = static_cast<unsigned>(rank);
    void* told = cluster.of_rank(&barrier, block, where);
    simulator::bulk_to_block(cluster.of_rank(to, block, where), from, static_cast<std::uint32_t>(bytes),
                             &static_cast<Mbarrier*>(told)->state, where);
}
inline void bulk_store(void* to, const void* from, int bytes, Where where) {
    simulator::bulk_store(to, from, static_cast<std::uint32_t>(bytes), where);
}
inline void bulk_prefetch(const void*, int) {}
inline void bulk_commit() { simulator::commit_copies(&simulator::Thread::bulk); }
template <int kept>
void bulk_wait(Where where) {
    simulator::wait_for_copies(&simulator::Thread::bulk, kept, false, "cp.async.bulk.wait_group", where);
}
template <int kept>
void bulk_wait_read(Where where) {
    simulator::wait_for_copies(&simulator::Thread::bulk, kept, true, "cp.async.bulk.wait_group.read", where);
}

#else

__device__ inline void bulk_load(void* to, const void* from, int bytes, Mbarrier& barrier, Where) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(&barrier))
                 : "memory");
}
__device__ inline void bulk_load_multicast(void* to, const void* from, int bytes, Mbarrier& barrier,
                                           std::uint16_t blocks, Where) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
        "%4;" ::"r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(&barrier)), "h"(blocks)
        : "memory");
}
__device__ inline void bulk_send(void* to, const void* from, int bytes, Mbarrier& barrier, int rank, Where) {
    asm volatile(
        "{ .reg .b32 there, told; mapa.shared::cluster.u32 there, %0, %4; mapa.shared::cluster.u32 told, %3, %4; "
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [there], [%1], %2, [told]; }" ::"r"(
            shared_address(to)),
        "r"(shared_address(from)), "r"(bytes), "r"(shared_address(&barrier)), "r"(rank)
        : "memory");
}
__device__ inline void bulk_store(void* to, const void* from, int bytes, Where) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
                 "r"(bytes)
                 : "memory");
}
__device__ inline void bulk_prefetch(const void* from, int bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int kept>
__device__ inline void bulk_wait(Where) {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kept) : "memory");
}
template <int kept>
__device__ inline void bulk_wait_read(Where) {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kept) : "memory");
}

#endif

}  // namespace dsa
