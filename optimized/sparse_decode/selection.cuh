// Which slots of a block's part of a selection count? Those in range that stand nowhere before, be it in this part or
// in an earlier one. The second consumer asks, while the producer already brings the tokens: its answer is needed
// only when the first tile has been scored, and its table lies where the second half of the second tile will.
//
// In rounds: each index hashes to a place, which is left to the lowest slot of those that come there. Who finds
// itself there is the first of its index. Who finds the same index there stands twice. Who finds another one comes to
// another place in the next round, together with its like; two or three rounds are enough. Nobody walks from place to
// place, so that all 16 slots of a thread go at once.
#pragma once

#include "optimized/sparse_decode/tiles.cuh"

namespace dsa::cached_tiles {

class Selection {
   public:
    static constexpr int most = most_tiles * tokens;  // slots up to the part's end

    // row: all indices of the query. slots: of the cache.
    __device__ static void find_counting(Memory& memory, const Work& work, const std::int32_t* row,
                                         std::int64_t slots) {
        const int thread = static_cast<int>(threadIdx.x) % warpgroup, end = work.first_slot + work.slots;
        auto* list = reinterpret_cast<std::int32_t*>(memory.p);                            // [most]
        auto* table = reinterpret_cast<std::int32_t*>(memory.keys[1].panel[half_panels]);  // [places]
        std::int32_t mine[each];
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int i = thread + j * warpgroup;
            mine[j] = i < end ? row[i] : -1;
        }
        for (int i = thread; i < places / 4; i += warpgroup)
            reinterpret_cast<Words*>(table)[i] = Words{{empty, empty, empty, empty}};
        if (thread == 0) memory.rounds = 0;
        std::uint32_t open = 0, first = 0;  // a bit a slot of this thread
#pragma unroll
        for (int j = 0; j < each; ++j) {
            if (mine[j] >= 0 && mine[j] < slots) open |= 1U << j;
            list[thread + j * warpgroup] = mine[j];
        }
        barrier_sync(of_the_second, warpgroup);
        for (int round = 0;; ++round) {
            const std::uint32_t multiplier = 0x9e3779b9U + static_cast<std::uint32_t>(round) * 0x3c6ef372U;  // odd
            const int below = 2 * most * round;  // a round's entries are lower than all before
            const auto place = [&](std::int32_t s) {
                return static_cast<std::uint32_t>(s) * multiplier >> (32 - bits);
            };
#pragma unroll
            for (int j = 0; j < each; ++j)
                if ((open >> j & 1) != 0) atomicMin(&table[place(mine[j])], thread + j * warpgroup - below);
            barrier_sync(of_the_second, warpgroup);
            std::uint32_t left = 0;
#pragma unroll
            for (int j = 0; j < each; ++j) {
                if ((open >> j & 1) == 0) continue;
                const int lowest = table[place(mine[j])] + below;
                if (lowest == thread + j * warpgroup)
                    first |= 1U << j;
                else if (list[lowest] != mine[j])
                    left |= 1U << j;
            }
            open = left;
            if (open != 0) atomicMax(&memory.rounds, round + 1);
            barrier_sync(of_the_second, warpgroup);
            if (memory.rounds <= round) break;
        }
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const std::uint32_t counts = __ballot_sync(all_lanes, (first >> j & 1) != 0);
            const int i = thread + j * warpgroup - work.first_slot;
            if (lane_id() == 0 && i >= 0 && i < work.tiles() * tokens) memory.counts[i / 32] = counts;
        }
    }

   private:
    static constexpr int each = most / warpgroup;
    static constexpr int bits = 13, places = 1 << bits;
    static constexpr std::uint32_t empty = 0x7fffffff;
    static_assert(places * 4 <= half_panels * panel_bytes && most * 4 <= panel_bytes, "they lie in tiles' places");
};

}  // namespace dsa::cached_tiles
