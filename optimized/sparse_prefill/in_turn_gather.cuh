// What two warpgroups that score in turn (in_turn.cuh) and a third share, and how that one gathers their tiles.
#pragma once

#include <type_traits>

#include "optimized/hopper/cp_async.h"
#include "optimized/sparse_prefill/work.cuh"

namespace dsa::latent_tile::in_turn {

inline constexpr int threads = 3 * warpgroup;
inline constexpr int tile_keys = 48;
inline constexpr int stages = 3;
inline constexpr int rows_each = tile_keys / 4;              // of a warp that gathers
inline constexpr int kept_panels = 3;                        // of q, in a scorer's registers
inline constexpr int of_a_gatherer = 40, of_a_scorer = 232;  // registers
inline constexpr int apart = tile_keys * row_bytes;          // of a tile's panels
inline constexpr int panels_of_half = value_panels / 2, of_a_half = panels_of_half * apart;
// Of a tile: v's halves, each of which is free again when one warpgroup has weighed it, and the rotated columns.
inline constexpr int pieces = 3, rotated = 2;
// Of q the last panel of each half is kept, and the rotated columns.
inline constexpr int others_of_half = panels_of_half - 1;
inline constexpr int second_p = heads * 64;                                        // where p's keys from 32 on begin
inline constexpr int rows_of_a_warp = 16, of_a_warp = rows_of_a_warp * row_bytes;  // of a panel of sums
enum : int { scorers_barrier = 1, gatherers_barrier = 3 };

struct alignas(1024) Tile {
    unsigned char at[panels * apart];  // [panels, tile_keys, panel_columns]
    // When q k^T is done, in the place of the rotated columns: [heads, 32] and [heads, 16].
    __device__ unsigned char* p() { return at + value_panels * apart; }
};
// By who scored a tile.
struct Told {
    // Whether rows of warp w have a new reference: said when it is so, taken back by who has heard it. (The scorers'
    // loads and stores stand behind the copies, so none is without need.)
    std::uint32_t rises[4];
    float factor[heads];     // then: by what older sums are multiplied,
    float reference[heads];  // and the reference
    float largest[heads];    // of an item's last tile but one: the maximum of its scorer's tiles,
    float end[2][heads];     // and their sum; of the last one: what the sums of p v are divided by. Two, used in turn
};
struct alignas(8) Valid {
    std::uint16_t of[4];  // bit i of number w: key 12 w + i counts
};
struct Shared {
    Tile tile[stages];
    Panel q[panels - kept_panels];
    unsigned char spare[heads / rows_of_a_warp + 1][of_a_warp];  // sums that have no other place on their way out
    Told told[2];
    Valid valid[stages];
    Mbarrier q_full;                 // of an item, in its scorers' shared panels
    Mbarrier full[stages][pieces];   // rows are there
    Mbarrier scored[stages];         // p is there
    Mbarrier empty[stages][pieces];  // p v is done
};

// At least two, so that each scorer has a part in each item.
__device__ inline int tiles_of(const Work& work) { return max(2, (work.k + tile_keys - 1) / tile_keys); }
__device__ inline int place_of(unsigned n) { return static_cast<int>(n % stages); }
__device__ inline int parity_of(unsigned n) { return static_cast<int>(n / stages % 2); }

__device__ inline void prepare(Shared& memory) {
    if (threadIdx.x < 8) memory.told[threadIdx.x / 4].rises[threadIdx.x % 4] = 0;
    if (threadIdx.x == 0) {
        mbarrier_init(memory.q_full, 1);
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(memory.scored[i], 4);
            for (int piece = 0; piece < pieces; ++piece) {
                mbarrier_init(memory.full[i][piece], piece == rotated ? warpgroup + 4 : warpgroup);
                mbarrier_init(memory.empty[i][piece], piece == rotated ? 8 : 4);
            }
        }
        fence_mbarrier_init();
    }
    __syncthreads();
}

// Warp w brings rows 12 w ... 12 w + 11 of a tile, 8 lanes a row. Tiles of all items are one stream: where a tile's
// rows lie is asked for before the rows of the tile before it are, and known before their places are free. tiles: of
// an item. indices: ask(item, tile); answer(asked, tile, n), of tile n: lane i has row 12 w + i, -1 where the slot
// does not count.
template <class Indices>
__device__ void gather(Shared& memory, const Work& work, int tiles, Indices indices) {
    constexpr int rows_at_once = 4, times = rows_each / rows_at_once;
    const int warp = warp_id(), lane = lane_id(), blocks = static_cast<int>(gridDim.x);
    const int first_place = place_of_piece(warp * rows_each + lane / 8, lane % 8);
    const int other_half =
        (first_place & 64) == 0 ? 64 : -64;  // four rows on the swizzle's third bit is the other one
    const bf16* columns = work.kv + lane % 8 * 8;
    int item = static_cast<int>(blockIdx.x), tile = 0;
    auto asked = indices.ask(item, tile);
    for (unsigned n = 0; item < work.items; ++n) {
        const int at = place_of(n), free = parity_of(n) ^ 1;
        const std::int32_t index = indices.answer(asked, tile, n);
        const std::uint32_t valid = __ballot_sync(all_lanes, index >= 0);
        const bf16* from[times];
        int bytes[times];
#pragma unroll
        for (int i = 0; i < times; ++i) {
            const std::int32_t position = __shfl_sync(all_lanes, index, rows_at_once * i + lane / 8);
            bytes[i] = position < 0 ? 0 : 16;
            from[i] = columns + std::int64_t{max(position, 0)} * d;
        }
        if (++tile == tiles) {
            tile = 0;
            item += blocks;
        }
        if (item < work.items) asked = indices.ask(item, tile);
        const auto bring = [&](int piece, auto count) {
            unsigned char* to = memory.tile[at].at + piece * of_a_half + first_place;
            mbarrier_wait_in_block(memory.empty[at][piece], free);
#pragma unroll
            for (int i = 0; i < times; ++i) {
                const bf16* row = from[i] + piece * panels_of_half * panel_columns;
                unsigned char* place = to + rows_at_once * i * row_bytes + (i % 2 == 0 ? 0 : other_half);
#pragma unroll
                for (int panel = 0; panel < decltype(count)::value; ++panel)
                    cp_async<16>(place + panel * apart, row + panel * panel_columns, bytes[i]);
            }
            cp_async_arrive(memory.full[at][piece]);
        };
        // First the half that the scorer of the place's last tile had: it has weighed it before the other did.
        const int early = static_cast<int>(n + 1) % 2;
        for (int i = 0; i < 2; ++i) bring(early ^ i, std::integral_constant<int, panels_of_half>{});
        bring(rotated, std::integral_constant<int, 1>{});
        if (lane == 0) {
            memory.valid[at].of[warp] = static_cast<std::uint16_t>(valid & ((1U << rows_each) - 1));
            mbarrier_arrive(memory.full[at][rotated]);
        }
    }
}

}  // namespace dsa::latent_tile::in_turn
