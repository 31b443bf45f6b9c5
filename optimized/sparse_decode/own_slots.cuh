// Which slots of a block's own part of a selection count? Those in range that stand nowhere before, be it in this
// part or in an earlier one. The own slots go into chains by the hash of their index; then every slot up to the
// part's end looks for its like among them, and says of those that come after it that they stand twice. Most look
// into an empty chain where the part is small, and nobody asks again, as in attention/distinct.cuh.
#pragma once

#include "optimized/hopper/barrier.h"
#include "optimized/sparse_decode/dequantise.cuh"

namespace dsa {

// threads: that ask, whole warps of a block. most: slots up to the part's end. own: of the part at most.
template <int threads, int most, int own, int bits>
class OwnSlots {
    static constexpr int each = most / threads;

   public:
    struct Place {
        std::int32_t chain[1 << bits];
        std::int32_t next[own];
        std::int32_t index[own];
        std::uint32_t twice[most / 32];
    };

    // A thread's slots: asked for early, they are there when they are needed.
    struct Mine {
        std::int32_t index[each];
    };
    // row: all indices of the query, of which the first `end` are asked about.
    __device__ static Mine read(const std::int32_t* row, int end) {
        Mine mine;
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int i = static_cast<int>(threadIdx.x) % threads + j * threads;
            mine.index[j] = i < end ? row[i] : -1;
        }
        return mine;
    }

    // The part begins at slot `first`. slots: of the cache. barrier: a named one. tell(i, counts): one lane for slots
    // i ... i + 31, a bit each.
    template <class Tell>
    __device__ static void find_counting(Place& place, int barrier, const Mine& of, int first, std::int64_t slots,
                                         Tell tell) {
        const int thread = static_cast<int>(threadIdx.x) % threads;
        const auto& mine = of.index;
        for (int i = thread; i < (1 << bits) / 4; i += threads)
            reinterpret_cast<Words*>(place.chain)[i] = Words{{nobody, nobody, nobody, nobody}};
        for (int i = thread; i < most / 32; i += threads) place.twice[i] = 0;
        barrier_sync(barrier, threads);
        std::uint32_t in_range = 0;  // a bit a slot of this thread
#pragma unroll
        for (int j = 0; j < each; ++j) {
            if (mine[j] < 0 || mine[j] >= slots) continue;
            in_range |= 1U << j;
            const int e = thread + j * threads - first;
            if (e < 0) continue;
            place.index[e] = mine[j];
            std::int32_t& chain = place.chain[chain_of(mine[j])];
            std::int32_t there = static_cast<std::int32_t>(nobody), before;
            do {
                before = there;
                there = atomicCAS(&chain, before, e);
            } while (there != before);
            place.next[e] = before;
        }
        barrier_sync(barrier, threads);
#pragma unroll
        for (int j = 0; j < each; ++j) {
            if ((in_range >> j & 1) == 0) continue;
            const int i = thread + j * threads;
            for (std::int32_t e = place.chain[chain_of(mine[j])]; e >= 0; e = place.next[e])
                if (first + e > i && place.index[e] == mine[j])
                    atomicOr(&place.twice[(first + e) / 32], 1U << (first + e) % 32);
        }
        barrier_sync(barrier, threads);
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int i = thread + j * threads;
            const std::uint32_t found = __ballot_sync(all_lanes, i >= first && (in_range >> j & 1) != 0);
            if (lane_id() == 0) tell(i, found & ~place.twice[i / 32]);
        }
    }

   private:
    static constexpr std::uint32_t nobody = 0xffffffffU;
    __device__ static std::uint32_t chain_of(std::int32_t index) {
        return static_cast<std::uint32_t>(index) * 0x9e3779b9U >> (32 - bits);  // 2^32 / 1.618...
    }
};

}  // namespace dsa
