// Which slots of a block's part of a selection count? Those in range that stand nowhere before, be it in this part or
// in an earlier one. The second consumer asks, while the producer already brings the tokens: its answer is needed only
// when the first tile has been scored, and its table lies where p will.
//
// The table has a place of 16 bits for each slot twice over, open addressing; a place ends with the lowest slot that
// has its index. Earlier parts are only looked up. Which place an index gets may differ from run to run, the answer
// cannot.
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
        for (int i = thread; i < places_; i += warpgroup) table()[i] = nobody;
        for (int i = thread; i < 2 * most_tiles; i += warpgroup) memory_.repeated[i] = 0;
        barrier_sync(of_the_second, warpgroup);
        for (int i = thread; i < work_.slots; i += warpgroup)
            if (in_range(own_[i])) insert(own_[i], static_cast<std::uint16_t>(i));
        barrier_sync(of_the_second, warpgroup);
#pragma unroll 4
        for (int i = thread; i < work_.first_slot; i += warpgroup)
            if (in_range(row_[i])) mark_repeated(row_[i]);
        barrier_sync(of_the_second, warpgroup);
        for (int i = thread; i < work_.tiles() * tokens; i += warpgroup) {
            const std::uint32_t counts = __ballot_sync(all_lanes, i < work_.slots && is_first(i));
            if (lane_id() == 0) memory_.counts[i / 32] = counts & ~memory_.repeated[i / 32];
        }
    }

   private:
    static constexpr std::uint16_t nobody = 0xffff;

    __device__ std::uint16_t* table() const { return reinterpret_cast<std::uint16_t*>(memory_.p); }
    __device__ bool in_range(std::int32_t s) const { return s >= 0 && s < slots_; }
    __device__ int first_place(std::int32_t s) const {
        constexpr std::uint32_t golden_ratio = 0x9e3779b9U;  // 2^32 / 1.618...: neighbours fall far apart
        return static_cast<int>((static_cast<std::uint32_t>(s) * golden_ratio) >> 8U) & (places_ - 1);
    }
    __device__ int next(int place) const { return (place + 1) & (places_ - 1); }

    __device__ void insert(std::int32_t s, std::uint16_t i) {
        for (int at = first_place(s);; at = next(at)) {
            std::uint16_t there = atomicCAS(&table()[at], nobody, i);
            if (there == nobody) return;
            if (own_[there] != s) continue;
            while (i < there) {
                const std::uint16_t seen = there;
                there = atomicCAS(&table()[at], seen, i);
                if (there == seen) break;
            }
            return;
        }
    }
    // The place of s; one of nobody where it is not in the table.
    __device__ int find(std::int32_t s) const {
        int at = first_place(s);
        while (table()[at] != nobody && own_[table()[at]] != s) at = next(at);
        return at;
    }
    __device__ void mark_repeated(std::int32_t s) {
        const int i = table()[find(s)];
        if (i != nobody) atomicOr(&memory_.repeated[i / 32], 1U << (i % 32));
    }
    __device__ bool is_first(int i) const { return in_range(own_[i]) && table()[find(own_[i])] == i; }

    Memory& memory_;
    const Work& work_;
    const std::int32_t* row_;
    const std::int32_t* own_;
    std::int64_t slots_;
    int places_ = 64;
};

}  // namespace dsa::cached_tiles
