// Who brings tiles of 48 tokens of the FP8 cache: a warpgroup that reads tokens into registers, makes bf16 of them by
// moving bits and stores them as wgmma reads them. Where two blocks share it, each makes one half of a tile's tokens
// and sends it to the other by bulk copies between their shared memories.
//
// Warp w of four has the 128 columns of scale w, two panels, of all 24 tokens of a half, three groups of 8: lane
// 4 t + c has piece c (16 codes) of both panels of tokens t, t + 8 and t + 16. So a warp's share of a panel is 3072
// bytes in a row, and 8 lanes store to 8 different places of 16 bytes, whose banks differ. Warps 0 to 2 also have the
// rotated columns of one group each.
#pragma once

#include "optimized/attention/three_tiles.cuh"
#include "optimized/sparse_decode/dequantise.cuh"
#include "optimized/sparse_decode/token.cuh"

namespace dsa::cached_tiles {

// Where a lane reads what it has of tokens. A slot that is none reads the cache's first token, which becomes zeros:
// an address a token and no branch, or each load would wait until the one before it has read its address.
struct Reading {
    const std::uint8_t* codes;   // piece c (16 codes) of both panels of scale w
    const std::uint8_t* scale;   // scale w
    const std::uint8_t* turned;  // 16 of the rotated columns, which are bf16 already

    __device__ Reading(const std::uint8_t* pages, int w, int c)
        : codes(pages + 2 * w * latent_tile::panel_columns + 16 * c),
          scale(pages + latent + 4 * w),
          turned(pages + latent + 4 * (latent / scaled) + 32 * c) {}

    template <class T>
    __device__ static T at(const std::uint8_t* from, std::int32_t slot, int further = 0) {
        const std::uint64_t token = static_cast<std::uint64_t>(static_cast<std::uint32_t>(slot)) * token_bytes;
        return *reinterpret_cast<const T*>(from + token + further);
    }
};

// What a lane has of a token's latent.
struct Pieces {
    Words codes[2];
    float scale;

    __device__ void load(const Reading& from, std::int32_t slot) {
        scale = Reading::at<float>(from.scale, slot);
#pragma unroll
        for (int j = 0; j < 2; ++j) codes[j] = Reading::at<Words>(from.codes, slot, j * latent_tile::panel_columns);
    }
    // To the token's row in the first of two panels, which lie `between` bytes apart. none: zeros. Whether it must be
    // done once more, the long road: there was a NaN or another kind of scale.
    __device__ bool make(unsigned char* row, int t, int c, int between, bool none) const {
        const std::uint32_t pair = none ? 0 : scale_for_pairs(scale);
        std::uint32_t trouble = pair == 0 ? nan_bits : 0;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            trouble |= nan_codes(codes[j]);
            Words numbers[2];
            dequantise(for_plain_order(codes[j]), pair, numbers);
            store(row + j * between, t, c, numbers);
        }
        return !none && (trouble & nan_bits) != 0;
    }
    __device__ void make_one_by_one(unsigned char* row, int t, int c, int between) const {
#pragma unroll 1
        for (int j = 0; j < 2; ++j) {
            Words numbers[2];
            dequantise_one_by_one(for_plain_order(j == 0 ? codes[0] : codes[1]), scale, numbers);
            store(row + j * between, t, c, numbers);
        }
    }
    // 16 numbers of row t of eight, swizzled.
    __device__ static void store(unsigned char* row, int t, int c, const Words (&numbers)[2]) {
#pragma unroll
        for (int j = 0; j < 2; ++j) *reinterpret_cast<Words*>(row + (((2 * c + j) ^ t) << 4)) = numbers[j];
    }
};
// And of its rotated columns.
struct Turned {
    Words numbers[2];
    __device__ void load(const Reading& from, std::int32_t slot) {
#pragma unroll
        for (int j = 0; j < 2; ++j) numbers[j] = Reading::at<Words>(from.turned, slot, 16 * j);
    }
    __device__ void store(unsigned char* row, int t, int c, bool none) {
        if (none) numbers[0] = numbers[1] = Words{};
        Pieces::store(row, t, c, numbers);
    }
};

// An item's slots. Those past the cache's end, and negative ones, are none.
struct Part {
    const std::int32_t* from;
    int count;
};

// Cache: what the kernel says of it.
//   pages, cache_slots; first, items, stride as Job's; tiles(item)
//   part(item)   the item's part of the selection, a Part
// Memory: has tiles (ThreeTiles) and counts_known: before it the last tile's place is not free.
template <int blocks, class Memory, class Cache>
class Converter {
    static constexpr int half_tokens = latent_tile::tile_keys / 2, groups = half_tokens / 8;
    static constexpr int group_bytes = 8 * latent_tile::row_bytes;
    static constexpr int between = latent_tile::apart;

    // A half tile of an item, and the next one.
    struct Place {
        int item, tile, tiles, half;
        __device__ void next(const Cache& cache) {
            if (blocks == 1 && half == 0) {
                half = 1;
                return;
            }
            if (blocks == 1) half = 0;
            if (++tile < tiles) return;
            tile = 0;
            item += cache.stride;
            if (item < cache.items) tiles = cache.tiles(item);
        }
    };
    struct Slots {
        std::int32_t of[groups];
    };

    Memory& memory;
    const Cache& cache;
    Part part;                                                  // of which slots are read
    const int warp = __shfl_sync(all_lanes, warp_id() % 4, 0);  // uniform, sees ptxas
    const int t = lane_id() / 4, c = lane_id() % 4;
    const Reading from;
    Pieces pieces[groups];
    Turned turned;
    std::uint32_t none = 0;  // a bit a group

    __device__ std::int32_t slot(const Part& of, const Place& place, int g) const {
        const int i = place.tile * latent_tile::tile_keys + place.half * half_tokens + 8 * g + t;
        return i < of.count ? of.from[i] : -1;
    }
    __device__ Slots read_slots(Place& place) {
        Slots found;
#pragma unroll
        for (int g = 0; g < groups; ++g) found.of[g] = slot(part, place, g);
        const int item = place.item;
        place.next(cache);
        if (place.item != item) part = place.item < cache.items ? cache.part(place.item) : Part{nullptr, 0};
        return found;
    }
    // Asked where a slot is used, not where it is read: there its number would be waited for.
    __device__ bool is_none(std::int32_t slot) const { return slot < 0 || slot >= cache.cache_slots; }
    __device__ std::int32_t of_this_warp(const Slots& of) const {
        return warp == 0 ? of.of[0] : warp == 1 ? of.of[1] : of.of[2];
    }
    // Tokens come to the L2 cache: what is loaded into registers is too little for the way from memory.
    __device__ void ask_for(const Slots& of) const {
        const std::int32_t slot = of_this_warp(of);
        if (warp < groups && c == 0 && !is_none(slot))
            bulk_prefetch(cache.pages + static_cast<std::int64_t>(slot) * token_bytes, token_bytes);
    }
    __device__ void load(const Slots& of) {
        none = 0;
        Slots safe;
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            const bool is = is_none(of.of[g]);
            if (is) none |= 1U << g;
            safe.of[g] = is ? 0 : of.of[g];
        }
#pragma unroll
        for (int g = 0; g < groups; ++g) pieces[g].load(from, safe.of[g]);
        if (warp < groups) turned.load(from, of_this_warp(safe));
    }
    // What is loaded becomes half of tile `stage`.
    __device__ void make(const Place& place, int stage) {
        unsigned char* of_half = memory.tiles.tile[stage].at + place.half * groups * group_bytes;
        unsigned char* to = of_half + 2 * warp * between;
        unsigned char* rotated_to = of_half + latent_tile::value_panels * between + warp * group_bytes;
        const int row = t * latent_tile::row_bytes;
        bool mends = false;
#pragma unroll
        for (int g = 0; g < groups; ++g)
            if (pieces[g].make(to + g * group_bytes + row, t, c, between, (none >> g & 1) != 0)) mends = true;
        if (warp < groups) turned.store(rotated_to + row, t, c, (none >> warp & 1) != 0);
        if (mends)
#pragma unroll 1
            for (int g = 0; g < groups; ++g) {
                if ((none >> g & 1) != 0) continue;
                Pieces again;
                again.load(from, slot(cache.part(place.item), place, g));
                again.make_one_by_one(to + g * group_bytes + row, t, c, between);
            }
        fence_proxy_async_shared();
        Mbarrier& full = memory.tiles.full[stage];
        if constexpr (blocks == 1) {
            warp_arrives(full);
        } else {
            __syncwarp();
            constexpr int of_panel = groups * group_bytes;
            if (lane_id() == 0) {
                const int other = cluster_rank() ^ 1;
                // what the other's warp sends
                mbarrier_arrive_expect(full, 2 * of_panel + (warp < groups ? group_bytes : 0));
#pragma unroll
                for (int j = 0; j < 2; ++j) bulk_send(to + j * between, to + j * between, of_panel, full, other);
                if (warp < groups) bulk_send(rotated_to, rotated_to, group_bytes, full, other);
            }
        }
    }

   public:
    static constexpr int arrivals = blocks == 1 ? 8 : 4;  // until a tile is full

    __device__ Converter(Memory& in, const Cache& of)
        : memory(in), cache(of), part(of.part(of.first)), from(of.pages, warp, c) {}

    // Slots are read three half tiles ahead, tokens asked for two ahead, and loaded one ahead.
    __device__ void run() {
        Place making{cache.first, 0, cache.tiles(cache.first), blocks == 1 ? 0 : cluster_rank()};
        Place reading = making;
        Slots next = read_slots(reading);
        Slots following = read_slots(reading);
        load(next);
        ask_for(following);
        next = following;
        following = read_slots(reading);
        latent_tile::Turn turn;
        bool first_round = true;
        for (; making.item < cache.items; making.next(cache)) {
            // The other block's warps arrive here too, but nothing that they wrote is read afterwards: the wait does
            // not acquire at the cluster's scope.
            if (making.half == 0 || blocks == 2)
                mbarrier_wait_in_block(memory.tiles.empty[turn.stage], turn.parity ^ 1);
            if (first_round && turn.stage == latent_tile::stages - 1) {
                mbarrier_wait_in_block(memory.counts_known, 0);
                first_round = false;
            }
            make(making, turn.stage);
            if (making.half == 1 || blocks == 2) turn.next();
            load(next);  // not earlier: the fence waits for what is on its way
            ask_for(following);
            next = following;
            following = read_slots(reading);
        }
    }
};

}  // namespace dsa::cached_tiles
