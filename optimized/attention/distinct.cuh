// Which slots of a query's selection count? Those in range whose index stands in no earlier slot. For warps that have
// a moment while rows come: no pass of its own over the indices.
//
// In rounds: each index hashes to a place, which is left to the lowest slot of those that come there. Who finds
// itself there is the first of its index. Who finds the same index there stands twice. Who finds another one comes to
// another place in the next round, together with its like. So nobody walks from place to place, and all slots of a
// thread go at once; two or three rounds are enough.
#pragma once

#include "optimized/hopper/barrier.h"

namespace dsa {

// threads: that ask, whole warps of a block. most: slots that they ask about. bits: of a hash.
template <int threads, int most, int bits>
struct DistinctSlots {
    static constexpr int each = most / threads, places = 1 << bits;
    static_assert(places >= 2 * most, "half of the places stay free");
#if defined(DSA_SIMULATOR)
    static constexpr int used_bits = 6;  // small cases shall go several rounds
#else
    static constexpr int used_bits = bits;
#endif

    struct alignas(16) Four {
        std::int32_t at[4];
    };
    struct Places {
        Four four[places / 4];
    };
    struct List {
        std::int32_t slot[most];  // the row
    };
    struct Table {
        Places lowest;
        List list;
    };
    std::uint32_t counts[most / 32];  // a bit a slot
    int rounds;

    // The bits are there when all have come to the barrier again.
    __device__ void find(Table& table, const std::int32_t* row, int end, std::int64_t rows, int thread, int barrier) {
        find_counting(table.list, table.lowest, rounds, row, end, rows, thread, barrier,
                      [&](int i, std::uint32_t found) { counts[i / 32] = found; });
    }

    // `threads` threads that meet at the named barrier. row: a query's indices. Slots before `end`, at most `most`,
    // are told of; `rows`: how many an index may point to. rounds: in shared memory. tell(i, counts): one lane for
    // slots i ... i + 31, a bit each.
    template <class Tell>
    __device__ static void find_counting(List& list, Places& lowest, int& rounds, const std::int32_t* row, int end,
                                         std::int64_t rows, int thread, int barrier, Tell tell) {
        std::int32_t mine[each];
        std::uint32_t open = 0, first = 0;  // a bit a slot of this thread
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int i = thread + j * threads;
            mine[j] = i < end ? row[i] : -1;
        }
        constexpr std::int32_t empty = 0x7fffffff;
        for (int i = thread; i < places / 4; i += threads) lowest.four[i] = Four{{empty, empty, empty, empty}};
        if (thread == 0) rounds = 0;
#pragma unroll
        for (int j = 0; j < each; ++j) {
            if (mine[j] >= 0 && mine[j] < rows) open |= 1U << j;
            list.slot[thread + j * threads] = mine[j];
        }
        barrier_sync(barrier, threads);
        for (int round = 0;; ++round) {
            const std::uint32_t multiplier = 0x9e3779b9U + static_cast<std::uint32_t>(round) * 0x3c6ef372U;  // odd
            const int below = 2 * most * round;  // a round's entries are lower than all before
            const auto place = [&](std::int32_t index) -> std::int32_t& {
                const std::uint32_t at = static_cast<std::uint32_t>(index) * multiplier >> (32 - used_bits);
                return lowest.four[at / 4].at[at % 4];
            };
#pragma unroll
            for (int j = 0; j < each; ++j)
                if ((open >> j & 1) != 0) atomicMin(&place(mine[j]), thread + j * threads - below);
            barrier_sync(barrier, threads);
            std::uint32_t left = 0;
#pragma unroll
            for (int j = 0; j < each; ++j) {
                if ((open >> j & 1) == 0) continue;
                const int there = place(mine[j]) + below;
                if (there == thread + j * threads)
                    first |= 1U << j;
                else if (list.slot[there] != mine[j])
                    left |= 1U << j;
            }
            open = left;
            if (open != 0) atomicMax(&rounds, round + 1);
            barrier_sync(barrier, threads);
            if (rounds <= round) break;
        }
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const std::uint32_t found = __ballot_sync(all_lanes, (first >> j & 1) != 0);
            if (lane_id() == 0) tell(thread + j * threads, found);
        }
    }
};

}  // namespace dsa
