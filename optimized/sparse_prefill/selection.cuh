// Which slots of an item's row count? Those in range whose index stands in no slot before. Where the row ascends
// (what is out of range at its end), a slot need only look at the one before. From the first tile on in which it
// falls, a table decides, made in that tile's place of the whole row. What was brought before is right: the row
// ascended. Who begins in the middle of a row looks first whether it falls before.
//
// In rounds: each index hashes to an entry, which is left to the lowest slot of those that come there. Who finds
// itself there is the first of its index; who finds the same index stands twice; who finds another one comes to
// another entry in the next round, together with its like.
#pragma once

#include "optimized/hopper/barrier_any.h"
#include "optimized/sparse_prefill/in_turn.cuh"

namespace dsa::latent_tile::in_turn {

class Selection {
   public:
    static constexpr int most = 4096;  // slots
    struct InShared {
        std::uint32_t counts[most / 32];  // bit i of word w: slot 32 w + i counts
        std::int32_t rounds;
    };
    // All of a tile's slots, so that each warp sees by itself whether the row falls there: first the warp's own.
    struct Asked {
        std::int32_t index[2], before[2];
    };

    // first_slot: at which an item's tiles begin.
    __device__ Selection(Shared& tiles, InShared& own, const Work& work, const std::int32_t* indices, std::int64_t S,
                         int first_slot = 0)
        : tiles_(tiles),
          own_(own),
          work_(work),
          indices_(indices),
          S_(static_cast<std::uint32_t>(S)),
          first_slot_(first_slot) {
        const int mine = warp_id() * rows_each + lane_id();
        slots_[0] = mine % tile_keys;
        slots_[1] = (mine + (lane_id() < tile_keys - 32 ? 32 : 0)) % tile_keys;
    }

    __device__ Asked ask(int item, int tile) {
        if (tile == 0) begin(item);
        Asked asked;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int slot = slot_of(tile, i);
            asked.index[i] = slot < work_.k ? row_[slot] : -1;
            asked.before[i] = slot < work_.k && slot > 0 ? row_[slot - 1] : -1;
        }
        return asked;
    }
    __device__ std::int32_t answer(const Asked& asked, int tile, unsigned n) {
        if (tile == 0) ascends_ = true;
        if (ascends_) {
            const bool falls = falls_at(asked, 0, tile) || falls_at(asked, 1, tile);
            const bool before = tile == 0 && first_slot_ > 0 && falls_before_first();
            if (__any_sync(all_lanes, falls) != 0 || before) {
                ascends_ = false;
                for (Mbarrier& piece : tiles_.empty[place_of(n)]) mbarrier_wait_in_block(piece, parity_of(n) ^ 1);
                find_first_of_each(reinterpret_cast<std::int32_t*>(tiles_.tile[place_of(n)].at));
            }
        }
        const std::int32_t index = asked.index[0];
        const int slot = slot_of(tile, 0);
        const bool counts = ascends_ || slot >= work_.k ? counts_alone(index) && index != asked.before[0]
                                                        : (own_.counts[slot / 32] >> slot % 32 & 1) != 0;
        return counts ? index : -1;
    }

   private:
#if defined(DSA_SIMULATOR)
    static constexpr int bits = 5;  // small cases shall need several rounds
#else
    static constexpr int bits = 12;
#endif
    static constexpr int entries = 1 << bits;
    static constexpr std::int32_t empty = 0x7fffffff;
    static_assert((entries + most) * sizeof(std::int32_t) <= sizeof(Tile), "table and list lie in a tile's place");
    static_assert(most <= 32 * warpgroup, "a thread has a bit for each of its slots");

    __device__ static std::uint32_t unsigned_of(std::int32_t index) { return static_cast<std::uint32_t>(index); }
    __device__ int slot_of(int tile, int i) const { return first_slot_ + tile * tile_keys + slots_[i]; }
    __device__ bool counts_alone(std::int32_t index) const { return unsigned_of(index) < S_; }
    __device__ bool falls(std::int32_t before, std::int32_t index) const {
        return counts_alone(index) && unsigned_of(before) > unsigned_of(index);
    }
    __device__ bool falls_at(const Asked& asked, int i, int tile) const {
        return slot_of(tile, i) > 0 && falls(asked.before[i], asked.index[i]);
    }
    __device__ bool falls_before_first() const {
        bool any = false;
#pragma unroll 8  // loads under way
        for (int slot = 1 + static_cast<int>(threadIdx.x); slot < first_slot_; slot += warpgroup)
            any |= falls(row_[slot - 1], row_[slot]);
        return barrier_any(gatherers_barrier, warpgroup, any);
    }
    // L2 is asked for the next item's row.
    __device__ void begin(int item) {
        row_ = row_of(item);
        const int next = item + static_cast<int>(gridDim.x);
        if (threadIdx.x == 0 && next < work_.items)
            prefetch_inner(row_of(next), work_.k * static_cast<int>(sizeof(std::int32_t)));
    }
    __device__ const std::int32_t* row_of(int item) const {
        return indices_ + std::int64_t{work_.query(item)} * work_.k;
    }
    // A prefetch begins and ends at multiples of 16 bytes; a row need not.
    __device__ static void prefetch_inner(const std::int32_t* from, int bytes) {
        const int skipped = static_cast<int>(-reinterpret_cast<std::uintptr_t>(from) % 16);
        const int inner = (bytes - skipped) / 16 * 16;
        if (inner > 0) bulk_prefetch(reinterpret_cast<const unsigned char*>(from) + skipped, inner);
    }

    // place: [entries + most]
    __device__ void find_first_of_each(std::int32_t* place) {
        std::int32_t *table = place, *list = place + entries;
        const int thread = static_cast<int>(threadIdx.x), all = (work_.k + warpgroup - 1) / warpgroup;  // of a thread
        std::uint32_t open = 0, first = 0;  // a bit a slot
        for (int j = 0; j < all; ++j) {
            const int slot = thread + j * warpgroup;
            const std::int32_t index = slot < work_.k ? row_[slot] : -1;
            list[slot] = index;
            if (counts_alone(index)) open |= 1U << j;
        }
        for (int i = thread; i < entries; i += warpgroup) table[i] = empty;
        if (thread == 0) own_.rounds = 0;
        barrier_sync(gatherers_barrier, warpgroup);
        for (int done = 0;; ++done) {
            const std::uint32_t multiplier = 0x9e3779b9U + static_cast<std::uint32_t>(done) * 0x3c6ef372U;  // odd
            const int below = 2 * most * done;  // a round's entries are lower than all before
            const auto entry = [&](int slot) {
                return table + (static_cast<std::uint32_t>(list[slot]) * multiplier >> (32 - bits));
            };
            for (int j = 0; j < all; ++j)
                if ((open >> j & 1) != 0) atomicMin(entry(thread + j * warpgroup), thread + j * warpgroup - below);
            barrier_sync(gatherers_barrier, warpgroup);
            std::uint32_t left = 0;
            for (int j = 0; j < all; ++j) {
                if ((open >> j & 1) == 0) continue;
                const int slot = thread + j * warpgroup, lowest = *entry(slot) + below;
                if (lowest == slot)
                    first |= 1U << j;
                else if (list[lowest] != list[slot])
                    left |= 1U << j;
            }
            open = left;
            if (open != 0) atomicMax(&own_.rounds, done + 1);
            barrier_sync(gatherers_barrier, warpgroup);
            if (own_.rounds <= done) break;
        }
        for (int j = 0; j < all; ++j) {
            const std::uint32_t counts = __ballot_sync(all_lanes, (first >> j & 1) != 0);
            if (lane_id() == 0) own_.counts[thread / 32 + j * 4] = counts;
        }
        barrier_sync(gatherers_barrier, warpgroup);
    }

    Shared& tiles_;
    InShared& own_;
    const Work& work_;
    const std::int32_t* indices_;  // [T, k]
    std::uint32_t S_;
    int first_slot_;
    const std::int32_t* row_ = nullptr;  // [k]
    int slots_[2];                       // of a tile
    bool ascends_ = true;
};

}  // namespace dsa::latent_tile::in_turn
