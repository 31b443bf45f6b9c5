// Who brings tiles of 48 tokens of the FP8 cache: a warpgroup that reads tokens into registers, makes bf16 of them by
// moving bits and stores them as wgmma reads them. Where two blocks share it, each makes one half of a tile's tokens and
// sends it to the other by bulk copies between their shared memories.
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

// An item's slots; those past the cache's end, and negative ones, are none.
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
    Part part;  // of which slots are read
    const int warp = warp_id() % 4, t = lane_id() / 4, c = lane_id() % 4;
    const int at = t * latent_tile::row_bytes + ((2 * c ^ t) << 4);  // of token t in its group
    Words codes[groups][2] = {};
    Words turned[2] = {};
    float scales[groups] = {};

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
    // Where the token is; null where zeros stand for it. A slot is asked here whether it is one, not where it is read:
    // there its number would be waited for.
    __device__ const std::uint8_t* find(std::int32_t slot) const {
        return slot < 0 || slot >= cache.cache_slots ? nullptr : cache.pages + static_cast<std::int64_t>(slot) * token_bytes;
    }
    __device__ Words codes_of(const std::uint8_t* token, int j) const {
        return *reinterpret_cast<const Words*>(token + (2 * warp + j) * latent_tile::panel_columns + 16 * c);
    }
    __device__ float scale_of(const std::uint8_t* token) const {
        return reinterpret_cast<const float*>(token + latent)[warp];
    }
    __device__ std::int32_t of_this_warp(const Slots& of) const {
        return warp == 0 ? of.of[0] : warp == 1 ? of.of[1] : of.of[2];
    }
    // Tokens come to the L2 cache: what is loaded into registers is too little for the way from memory.
    __device__ void ask_for(const Slots& of) const {
        const std::uint8_t* token = find(of_this_warp(of));
        if (warp < groups && c == 0 && token != nullptr) bulk_prefetch(token, token_bytes);
    }
    __device__ void load(const Slots& of) {
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            const std::uint8_t* token = find(of.of[g]);
            scales[g] = token == nullptr ? 1.0F : scale_of(token);
#pragma unroll
            for (int j = 0; j < 2; ++j) codes[g][j] = token == nullptr ? Words{} : codes_of(token, j);
        }
        if (warp >= groups) return;
        const std::uint8_t* token = find(of_this_warp(of));
#pragma unroll
        for (int j = 0; j < 2; ++j)
            turned[j] = token == nullptr
                            ? Words{}
                            : reinterpret_cast<const Words*>(token + latent + 4 * (latent / scaled) + 32 * c)[j];
    }
    __device__ void store(unsigned char* to, const Words (&numbers)[2]) const {
        *reinterpret_cast<Words*>(to + at) = numbers[0];
        *reinterpret_cast<Words*>(to + (at ^ 16)) = numbers[1];
    }
    // Once more, the long road, where there was a NaN or another kind of scale.
    __device__ void mend(const Place& place, unsigned char* to) const {
#pragma unroll 1
        for (int i = 0; i < groups * 2; ++i) {
            const int g = i / 2, j = i % 2;
            const std::uint8_t* token = find(slot(cache.part(place.item), place, g));
            Words numbers[2] = {};
            if (token != nullptr)
                dequantise_one_by_one(for_plain_order(codes_of(token, j)), scale_of(token), numbers);
            store(to + j * between + g * group_bytes, numbers);
        }
    }
    // What is loaded becomes half of tile `stage`.
    __device__ void make(const Place& place, int stage) {
        unsigned char* of_half = memory.tiles.tile[stage].at + place.half * groups * group_bytes;
        unsigned char* to = of_half + 2 * warp * between;
        unsigned char* rotated_to = of_half + latent_tile::value_panels * between + warp * group_bytes;
        std::uint32_t trouble = 0;
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            const std::uint32_t pair = scale_for_pairs(scales[g]);
            if (pair == 0) trouble = nan_bits;
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                trouble |= nan_codes(codes[g][j]);
                Words numbers[2];
                dequantise(for_plain_order(codes[g][j]), pair, numbers);
                store(to + j * between + g * group_bytes, numbers);
            }
        }
        if (warp < groups) store(rotated_to, turned);
        if ((trouble & nan_bits) != 0) mend(place, to);
        fence_proxy_async_shared();
        Mbarrier& full = memory.tiles.full[stage];
        if constexpr (blocks == 1) {
            warp_arrives(full);
        } else {
            __syncwarp();
            constexpr int of_panel = groups * group_bytes;
            const int lane = lane_id(), other = cluster_rank() ^ 1;
            if (lane == 0)  // what the other's warp sends
                mbarrier_arrive_expect(full, 2 * of_panel + (warp < groups ? group_bytes : 0));
            if (lane < 2) bulk_send(to + lane * between, to + lane * between, of_panel, full, other);
            if (lane == 2 && warp < groups) bulk_send(rotated_to, rotated_to, group_bytes, full, other);
        }
    }

   public:
    static constexpr int arrivals = blocks == 1 ? 8 : 4;  // until a tile is full

    __device__ Converter(Memory& in, const Cache& of) : memory(in), cache(of), part(of.part(of.first)) {}

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
            // The other block's warps arrive here too, but nothing that they wrote is read afterwards: the wait does not
            // acquire at the cluster's scope.
            if (making.half == 0 || blocks == 2) mbarrier_wait_in_block(memory.tiles.empty[turn.at], turn.parity ^ 1);
            if (first_round && turn.at == latent_tile::stages - 1) {
                mbarrier_wait_in_block(memory.counts_known, 0);
                first_round = false;
            }
            make(making, turn.at);
            if (making.half == 1 || blocks == 2) turn.next();
            load(next);  // not earlier: the fence waits for what is on its way
            ask_for(following);
            next = following;
            following = read_slots(reading);
        }
    }
};

}  // namespace dsa::cached_tiles
