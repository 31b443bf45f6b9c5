// Who brings tiles where two blocks of a cluster share a token's columns: a warpgroup that makes bf16 of this block's
// 256 columns of the latent, of all 64 tokens of a tile, and copies its 32 of the rotated ones. Nothing is sent.
//
// Warp w has panel w, 64 columns. In group g of eight tokens lane 4 t + c has piece c, 16 codes, of token 8 g + t: 8
// lanes store to 8 places of 16 bytes whose banks differ. As soon as a group is made, the same registers are loaded
// with that of the next tile: a load has a whole tile's time to come. There is no fence here, which would wait for all
// that is on its way: whoever multiplies makes it.
#pragma once

#include "optimized/attention/latent_tile.cuh"
#include "optimized/hopper/cp_async.h"
#include "optimized/sparse_decode/converter.cuh"

namespace dsa::cached_tiles {

constexpr int own_panels = latent_tile::value_panels / 2, own_columns = latent / 2, own_rotated = rotated / 2;
constexpr int tile_tokens = 64;

// Half of the columns of 64 rows: of a tile of tokens, or of q.
struct alignas(1024) HalfRows {
    latent_tile::Panel panel[own_panels];
    unsigned char turned[tile_tokens * own_rotated * 2];  // [64, 32], swizzled over 64 bytes
};

// Cache: items, first, stride; tiles(item); part(item), a Part; pages, cache_slots.
template <int stages, class Cache>
class ColumnConverter {
    static constexpr int groups = tile_tokens / 8, row_bytes = latent_tile::row_bytes;

    struct Place {
        int item, tile, tiles;
        __device__ bool next(const Cache& cache) {  // is it another item's?
            if (++tile < tiles) return false;
            tile = 0;
            item += cache.stride;
            if (item < cache.items) tiles = cache.tiles(item);
            return true;
        }
    };
    // Lane l has those of tokens l and l + 32.
    struct Slots {
        std::int32_t of[2];
    };

    const Cache& cache;
    const int warp = __shfl_sync(all_lanes, warp_id() % 4, 0);  // uniform, sees ptxas
    const int t = lane_id() / 4, c = lane_id() % 4;
    const std::uint8_t *codes_from, *scale_from, *turned_from;
    const std::uint32_t cache_slots;
    Words codes[groups];
    float scale[groups];
    std::uint32_t none = 0;  // a bit a group

    __device__ static Slots read(const Part& part, int tile) {
        Slots found;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int i = tile * tile_tokens + 32 * j + lane_id();
            found.of[j] = i < part.count ? part.from[i] : -1;
        }
        return found;
    }
    __device__ Part part_of(const Place& place) const {
        return place.item < cache.items ? cache.part(place.item) : Part{nullptr, 0};
    }
    __device__ std::int32_t slot(const Slots& of, int g) const {
        return __shfl_sync(all_lanes, of.of[g / 4], g % 4 * 8 + t);
    }
    __device__ bool is_none(std::int32_t slot) const { return static_cast<std::uint32_t>(slot) >= cache_slots; }
    // A slot that is none reads the cache's first token, which becomes zeros.
    __device__ void load(const Slots& of, int g) {
        std::int32_t at = slot(of, g);
        const bool is = is_none(at);
        none = (none & ~(1U << g)) | (is ? 1U << g : 0U);
        if (is) at = 0;
        codes[g] = Reading::at<Words>(codes_from, at);
        scale[g] = Reading::at<float>(scale_from, at);
    }
    // The rotated columns of two groups are this warp's; they need no registers.
    __device__ void copy_turned(HalfRows& to, const Slots& of) const {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int row = 16 * warp + 8 * j + t;
            const std::int32_t at = __shfl_sync(all_lanes, warp < 2 ? of.of[0] : of.of[1], row % 32);
            const auto offset = static_cast<std::uint32_t>(row * own_rotated * 2 + 16 * c);
            cp_async<16>(to.turned + swizzled_offset(offset, Swizzle::bytes_64),
                         turned_from + static_cast<std::int64_t>(is_none(at) ? 0 : at) * token_bytes,
                         is_none(at) ? 0 : 16);
        }
        cp_async_commit();
    }
    __device__ static int place_of(int g, int t, int piece) {
        return (8 * g + t) * row_bytes + ((piece ^ t) << 4);
    }
    __device__ void store(HalfRows& to, int g, const Words (&numbers)[2]) const {
        auto* panel = reinterpret_cast<unsigned char*>(&to.panel[warp]);
#pragma unroll
        for (int j = 0; j < 2; ++j) *reinterpret_cast<Words*>(panel + place_of(g, t, 2 * c + j)) = numbers[j];
    }
    __device__ std::uint32_t make(HalfRows& to, int g) {
        const bool is = (none >> g & 1) != 0;
        const std::uint32_t pair = is ? 0 : scale_for_pairs(scale[g]);
        Words numbers[2];
        dequantise(for_plain_order(codes[g]), pair, numbers);
        store(to, g, numbers);
        return is ? 0 : nan_codes(codes[g]) | (pair == 0 ? nan_bits : 0);
    }
    // Once more, the long road: there was a NaN or another kind of scale.
    __device__ void make_one_by_one(HalfRows& to, const Slots& of) const {
#pragma unroll 1
        for (int g = 0; g < groups; ++g) {
            const std::int32_t at = __shfl_sync(all_lanes, g < 4 ? of.of[0] : of.of[1], g % 4 * 8 + t);
            if (is_none(at)) continue;
            Words numbers[2];
            dequantise_one_by_one(for_plain_order(Reading::at<Words>(codes_from, at)),
                                  Reading::at<float>(scale_from, at), numbers);
            store(to, g, numbers);
        }
    }

   public:
    __device__ explicit ColumnConverter(const Cache& of)
        : cache(of),
          codes_from(of.pages + cluster_rank() * own_columns + 64 * warp + 16 * c),
          scale_from(of.pages + latent + 4 * (2 * cluster_rank() + warp / 2)),
          turned_from(of.pages + latent + 4 * (latent / scaled) + cluster_rank() * own_rotated * 2 + 16 * c),
          cache_slots(static_cast<std::uint32_t>(min(of.cache_slots, std::int64_t{1} << 31))) {}

    // last_is_free: before it the last stage's place is not.
    __device__ void run(HalfRows (&tile)[stages], Mbarrier (&full)[stages], Mbarrier (&empty)[stages],
                        Mbarrier& last_is_free) {
        Place making{cache.first, 0, cache.tiles(cache.first)}, reading = making;
        Part part = part_of(reading);
        const auto read_next = [&] {
            if (reading.next(cache)) part = part_of(reading);
            return read(part, reading.tile);
        };
        Slots now = read(part, 0);
#pragma unroll
        for (int g = 0; g < groups; ++g) load(now, g);
        Slots next = read_next();
        int stage = 0, parity = 0;
        bool first_round = true;
        for (; making.item < cache.items; making.next(cache)) {
            const Slots following = read_next();
            mbarrier_wait_in_block(empty[stage], parity ^ 1);
            if (first_round && stage == stages - 1) {
                mbarrier_wait_in_block(last_is_free, 0);
                first_round = false;
            }
            copy_turned(tile[stage], now);
            std::uint32_t trouble = 0;
#pragma unroll
            for (int g = 0; g < groups; ++g) {
                trouble |= make(tile[stage], g);
                load(next, g);
                __syncwarp();  // the compiler would put all loads off to the end
            }
            if (__any_sync(all_lanes, (trouble & nan_bits) != 0)) make_one_by_one(tile[stage], now);
            cp_async_wait<0>();
            warp_arrives(full[stage]);
            now = next;
            next = following;
            if (++stage == stages) stage = 0, parity ^= 1;
        }
    }
};

}  // namespace dsa::cached_tiles
