// Numbers from registers to another block of the cluster: asynchronous stores, whose bytes are told to an mbarrier of
// that block, so that nobody needs a fence or an arrival of its own. PTX ISA, "st.async".
#pragma once

#include "optimized/hopper/mbarrier.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/copies.h"
#endif

namespace dsa {

// Four numbers a store, to where block `rank` has what this block has at `to`, `apart` bytes further on each time;
// told to the barrier that it has where this block has `barrier`: 4 `count` bytes.
template <int count>
__device__ void send_numbers(float* to, int apart, const float (&numbers)[count], Mbarrier& barrier, int rank,
                             Where where = Where::current());

#if defined(DSA_SIMULATOR)

template <int count>
void send_numbers(float* to, int apart, const float (&numbers)[count], Mbarrier& barrier, int rank, Where where) {
    static_assert(count % 4 == 0, "four numbers a store");
    simulator::Cluster& cluster = simulator::this_thread().block->cluster();
    const auto block = static_cast<unsigned>(rank);
    auto* there = static_cast<std::byte*>(cluster.of_rank(to, block, where));
    auto* told = static_cast<Mbarrier*>(cluster.of_rank(&barrier, block, where));
    for (int i = 0; i < count; i += 4)
        simulator::store_to_block(there + i / 4 * apart, &numbers[i], 16, &told->state, where);
}

#else

template <int count>
__device__ inline void send_numbers(float* to, int apart, const float (&numbers)[count], Mbarrier& barrier, int rank,
                                    Where) {
    static_assert(count % 4 == 0, "four numbers a store");
    std::uint32_t there, told;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(to)), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(told) : "r"(shared_address(&barrier)), "r"(rank));
#pragma unroll
    for (int i = 0; i < count; i += 4)
        asm volatile(
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                there + static_cast<std::uint32_t>(i / 4 * apart)),
            "f"(numbers[i]), "f"(numbers[i + 1]), "f"(numbers[i + 2]), "f"(numbers[i + 3]), "r"(told)
            : "memory");
}

#endif

}  // namespace dsa
