// Which slots of a block's part of a selection count? Those in range that stand nowhere before, be it in this part or
// in an earlier one. The second consumer asks, while the producer already brings the tokens: its answer is needed only
// when the first tile has been scored, and its table lies where the second half of the second tile will.
//
// Open addressing, two places a slot; a place belongs to an index, and ends with the lowest slot that has it. An index
// of an earlier part that is found leaves a slot below all. Which place an index gets may differ from run to run, the
// answer cannot.
#pragma once

#include "optimized/sparse_decode/tiles.cuh"

namespace dsa::cached_tiles {

constexpr int of_the_second = of_consumers + 1;  // a named barrier

class Selection {
   public:
    // row: all k indices of the query. slots: of the cache.
    __device__ Selection(Memory& memory, const Work& work, const std::int32_t* row, std::int64_t slots)
        : memory_(memory), work_(work), row_(row), own_(row + work.first_slot), slots_(slots) {
        while (places_ < 2 * work.slots) places_ *= 2;
    }

    __device__ void find_counting() {
        const int thread = static_cast<int>(threadIdx.x) % warpgroup;
        for (int i = thread; i < places_; i += warpgroup) {
            table().index[i] = nobody;
            table().slot[i] = unseen;
        }
        barrier_sync(of_the_second, warpgroup);
        for_each(own_, work_.slots, [this](std::int32_t s, int i) {
            int at = first_place(s);
            for (;; at = next(at)) {
                const std::int32_t there = atomicCAS(&table().index[at], nobody, s);
                if (there == nobody || there == s) break;
            }
            atomicMin(&table().slot[at], i);
        });
        barrier_sync(of_the_second, warpgroup);
        for_each(row_, work_.first_slot, [this](std::int32_t s, int) {
            const int at = find(s);
            if (table().index[at] == s) atomicMin(&table().slot[at], earlier);
        });
        barrier_sync(of_the_second, warpgroup);
        for (int i = thread; i < work_.tiles() * tokens; i += warpgroup) {
            const std::int32_t s = i < work_.slots ? own_[i] : -1;
            const std::uint32_t counts = __ballot_sync(all_lanes, in_range(s) && table().slot[find(s)] == i);
            if (lane_id() == 0) memory_.counts[i / 32] = counts;
        }
    }

   private:
    static constexpr std::int32_t nobody = -1, earlier = -1, unseen = 0x7fffffff;
    static constexpr int most_places = 2 * most_tiles * tokens;
    static constexpr int batch = 16;  // indices on their way at once

    struct Table {
        std::int32_t index[most_places], slot[most_places];
    };
    static_assert(sizeof(Table) <= half_panels * panel_bytes, "the table lies where half a tile will");

    __device__ Table& table() const { return *reinterpret_cast<Table*>(memory_.keys[1].panel[half_panels]); }
    __device__ bool in_range(std::int32_t s) const { return s >= 0 && s < slots_; }
    __device__ int first_place(std::int32_t s) const {
        constexpr std::uint32_t golden_ratio = 0x9e3779b9U;  // 2^32 / 1.618...: neighbours fall far apart
        return static_cast<int>((static_cast<std::uint32_t>(s) * golden_ratio) >> 8U) & (places_ - 1);
    }
    __device__ int next(int place) const { return (place + 1) & (places_ - 1); }
    // The place of s, or one of nobody.
    __device__ int find(std::int32_t s) const {
        int at = first_place(s);
        while (table().index[at] != nobody && table().index[at] != s) at = next(at);
        return at;
    }
    template <class Visit>
    __device__ void for_each(const std::int32_t* indices, int count, Visit visit) const {
        for (int first = static_cast<int>(threadIdx.x) % warpgroup; first < count; first += batch * warpgroup) {
            std::int32_t some[batch];
#pragma unroll
            for (int j = 0; j < batch; ++j) {
                const int i = first + j * warpgroup;
                some[j] = i < count ? indices[i] : -1;
            }
#pragma unroll
            for (int j = 0; j < batch; ++j)
                if (in_range(some[j])) visit(some[j], first + j * warpgroup);
        }
    }

    Memory& memory_;
    const Work& work_;
    const std::int32_t* row_;
    const std::int32_t* own_;
    std::int64_t slots_;
    int places_ = 64;
};

}  // namespace dsa::cached_tiles
