// Which slots of a selection count? Those in range that stand nowhere before. Warps ask that have nothing to do yet,
// while others already bring tokens: the answer is needed only when the first tile has been scored, and list and
// table lie where later tiles will.
//
// In rounds: each index hashes to a place, which is left to the lowest slot of those that come there. Who finds
// itself there is the first of its index. Who finds the same index there stands twice. Who finds another one comes to
// another place in the next round, together with its like; two or three rounds are enough. Nobody walks from place to
// place, so that all 16 slots of a thread go at once.
#pragma once

#include "optimized/hopper/barrier.h"
#include "optimized/sparse_decode/dequantise.cuh"

namespace dsa {

// threads: that ask, whole warps of a block.
template <int threads>
class Selection {
   public:
    static constexpr int most = 2048;  // slots up to the part's end
    static constexpr int bits = 13, places = 1 << bits;
    struct List {
        std::int32_t slot[most];
    };
    struct Table {
        std::int32_t lowest[places];
    };

    // row: all indices of the query, of which the first `end` are asked about. slots: of the cache. barrier: a named
    // one. tell(i, counts): one lane for slots i ... i + 31, a bit each.
    template <class Tell>
    __device__ static void find_counting(List& list, Table& table, int& rounds, int barrier, const std::int32_t* row,
                                         int end, std::int64_t slots, Tell tell) {
        const int thread = static_cast<int>(threadIdx.x) % threads;
        std::int32_t mine[each];
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int i = thread + j * threads;
            mine[j] = i < end ? row[i] : -1;
        }
        for (int i = thread; i < places / 4; i += threads)
            reinterpret_cast<Words*>(table.lowest)[i] = Words{{empty, empty, empty, empty}};
        if (thread == 0) rounds = 0;
        std::uint32_t open = 0, first = 0;  // a bit a slot of this thread
#pragma unroll
        for (int j = 0; j < each; ++j) {
            if (mine[j] >= 0 && mine[j] < slots) open |= 1U << j;
            list.slot[thread + j * threads] = mine[j];
        }
        barrier_sync(barrier, threads);
        for (int round = 0;; ++round) {
            const std::uint32_t multiplier = 0x9e3779b9U + static_cast<std::uint32_t>(round) * 0x3c6ef372U;  // odd
            const int below = 2 * most * round;  // a round's entries are lower than all before
            const auto place = [&](std::int32_t s) {
                return static_cast<std::uint32_t>(s) * multiplier >> (32 - bits);
            };
#pragma unroll
            for (int j = 0; j < each; ++j)
                if ((open >> j & 1) != 0) atomicMin(&table.lowest[place(mine[j])], thread + j * threads - below);
            barrier_sync(barrier, threads);
            std::uint32_t left = 0;
#pragma unroll
            for (int j = 0; j < each; ++j) {
                if ((open >> j & 1) == 0) continue;
                const int lowest = table.lowest[place(mine[j])] + below;
                if (lowest == thread + j * threads)
                    first |= 1U << j;
                else if (list.slot[lowest] != mine[j])
                    left |= 1U << j;
            }
            open = left;
            if (open != 0) atomicMax(&rounds, round + 1);
            barrier_sync(barrier, threads);
            if (rounds <= round) break;
        }
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const std::uint32_t counts = __ballot_sync(all_lanes, (first >> j & 1) != 0);
            if (lane_id() == 0) tell(thread + j * threads, counts);
        }
    }

   private:
    static constexpr int each = most / threads;
    static constexpr std::uint32_t empty = 0x7fffffff;
};

}  // namespace dsa
