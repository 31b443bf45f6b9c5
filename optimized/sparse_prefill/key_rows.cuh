// What level 8 is made of: at most 32 heads of a query on wgmma, keys as the products' rows and heads as their
// columns, 8, 16 or 32 of them.
//
//     s^T = k q^T        [64 keys, heads]        36 products of m64 nN k16
//     o^T += v^T p^T     [512 columns, heads]    32 of them
//
// A tile lies in shared memory once, in panels of 64 columns, and is A of both: K-major, and MN-major. It comes and
// is given back in three pieces of three panels: a piece is free as soon as its columns are weighed. The last panel
// holds the rotated columns, which nobody weighs: when q k^T is done, p takes their place.
//
// Four warpgroups have a job each. One gathers; one finds which slots count, an item ahead, and asks for q; one
// scores and has the softmax; one weighs and stores. An item is a query, a block takes every gridDim.x-th, and the
// pieces of all of them are one stream.
#pragma once

#include "optimized/attention/distinct.cuh"
#include "optimized/attention/head_rows.cuh"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/pairs.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/tma.h"
#include "optimized/hopper/warp.h"

namespace dsa::key_rows {

using latent_tile::d, latent_tile::d_v, latent_tile::keys, latent_tile::panel_columns, latent_tile::panels,
    latent_tile::row_bytes, latent_tile::steps, latent_tile::value_panels, latent_tile::warpgroup, latent_tile::wide;

constexpr int pieces = 3, panels_each = panels / pieces;
constexpr int panel_bytes = keys * row_bytes;
constexpr int most_slots = 2048;
constexpr int rows_each = keys / 4;  // of a warp that gathers
constexpr int threads = 4 * warpgroup;
// 128 registers a thread of all warps, shared out again.
constexpr int of_a_gatherer = 56, of_a_selector = 104, of_a_scorer = 136, of_a_weigher = 208;
enum Role { gathers, selects, scores, weighs };
enum NamedBarrier { all_threads, of_selectors, of_scorers, of_weighers };
constexpr float log2_e = 1.44269504088896340736F, ln_2 = 0.69314718055994530942F;
constexpr float let_grow = 32.0F;  // the reference follows a maximum only when p would grow beyond 2^32 (in_turn.cuh)

using Selection = DistinctSlots<warpgroup, most_slots, 12>;

// places: of pieces, at most 8: then, when a tile's rows are there, what was told of the tile two before has been
// read.
template <int heads_, int places_>
struct Memory {
    static constexpr int heads = heads_, places = places_, q_places = heads == 32 ? 1 : 2;  // what fits
    struct alignas(1024) Piece {
        unsigned char at[panels_each * panel_bytes];  // [panels_each, keys, panel_columns]
        __device__ unsigned char* panel(int i) { return at + i * panel_bytes; }
        __device__ unsigned char* p() { return panel(panels_each - 1); }  // [heads, keys], in a tile's last piece
    };
    struct alignas(1024) HeadRows {
        unsigned char at[heads * row_bytes];  // [heads, panel_columns]
    };
    Piece piece[places];
    HeadRows q[q_places][panels];  // of an item, and the next
    typename Selection::Table table;
    std::uint32_t counts[2][most_slots / 32];  // of two items in turn: a bit a slot
    unsigned rescaled[2];                      // of two tiles in turn: the tile's number + 1, where older sums
    alignas(8) float rescaling[2][heads];      // are multiplied by these
    alignas(8) float of_warp[2][4][heads];     // each scoring warp's maxima, and sums
    float reference[heads];                    // at an item's end
    alignas(8) float one_over[2][heads];       // of two items in turn: what the sums of p v are multiplied by
    Mbarrier full[places], empty[places];      // of pieces
    Mbarrier p_full[2];                        // of two tiles in turn
    Mbarrier q_full[q_places], q_empty[q_places];
    Mbarrier counts_full[2], counts_empty[2];
    Mbarrier concluded[2];  // of two items in turn, since one may be of one tile: one_over is there
};

struct Queries {
    const bf16* q;                // [T, H, d]
    const bf16* kv;               // [S, d]
    const std::int32_t* indices;  // [T, k]
    AttentionResult result;
    std::int64_t S;
    int T, H, k;
    __device__ int tiles() const { return max(1, (k + keys - 1) / keys); }
    __device__ const std::int32_t* row(int t) const { return indices + std::int64_t{t} * k; }
    __device__ int next(int t) const { return t + static_cast<int>(gridDim.x); }
};

// The place of the next piece, counted over all items of a block.
template <int places>
struct Turn {
    int place = 0, parity = 0;
    __device__ void next() {
        if (++place == places) place = 0, parity ^= 1;
    }
    __device__ int uniform() const { return __shfl_sync(all_lanes, place, 0); }  // sees ptxas
};

__device__ inline void warp_arrives(Mbarrier& barrier) {
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(barrier);
}

template <class M>
__device__ void prepare(M& memory) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < M::places; ++i) {
            mbarrier_init(memory.full[i], warpgroup);
            mbarrier_init(memory.empty[i], 4);
        }
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(memory.p_full[i], 4);
            mbarrier_init(memory.concluded[i], 1);
            mbarrier_init(memory.counts_full[i], 4);
            mbarrier_init(memory.counts_empty[i], 4);
            memory.rescaled[i] = 0;
        }
        for (int i = 0; i < M::q_places; ++i) {
            mbarrier_init(memory.q_full[i], 1);
            mbarrier_init(memory.q_empty[i], 4);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
}

// ---- who gathers ----

// Warp w brings rows 16 w ... 16 w + 15 of a tile, 8 lanes a row. Where a tile's rows lie is asked for a tile ahead.
// A slot in range is brought whether it counts or not; others are zeros, since p = 0 must find a number.
template <class M>
__device__ void gather(M& memory, const Queries& queries) {
    constexpr int rows_at_once = 4, times = rows_each / rows_at_once;
    const int warp = warp_id() % 4, lane = lane_id(), tiles = queries.tiles();
    const int first_place = latent_tile::place_of_piece(warp * rows_each + lane / 8, lane % 8);
    // Four rows on, the swizzle's third bit is the other one.
    const int other_half = (first_place & 64) == 0 ? 64 : -64;
    const bf16* columns = queries.kv + lane % 8 * 8;
    int t = static_cast<int>(blockIdx.x), tile = 0;
    const auto ask = [&] {
        const int slot = tile * keys + warp * rows_each + lane % rows_each;
        return t < queries.T && slot < queries.k ? queries.row(t)[slot] : -1;
    };
    Turn<M::places> turn;
    std::int32_t asked = ask();
    while (t < queries.T) {
        const std::int32_t index = asked >= 0 && asked < queries.S ? asked : -1;
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
            t = queries.next(t);
        }
        asked = ask();
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece, turn.next()) {
            unsigned char* to = memory.piece[turn.place].at + first_place;
            mbarrier_wait_in_block(memory.empty[turn.place], turn.parity ^ 1);
#pragma unroll
            for (int panel = 0; panel < panels_each; ++panel)  // column by column: no pointer is waited for
#pragma unroll
                for (int i = 0; i < times; ++i)
                    cp_async<16>(
                        to + panel * panel_bytes + rows_at_once * i * row_bytes + (i % 2 == 0 ? 0 : other_half),
                        from[i] + (piece * panels_each + panel) * panel_columns, bytes[i]);
            cp_async_arrive(memory.full[turn.place]);
        }
    }
}

// ---- who finds which slots count, and asks for q ----

template <class M>
__device__ void select(M& memory, const Queries& queries, const TensorMap& q) {
    const int thread = static_cast<int>(threadIdx.x) % warpgroup;
    constexpr int q_places = M::q_places;
    const bool first_warp = __shfl_sync(all_lanes, thread / warp_size, 0) == 0;
    const auto load_q = [&](int t, int round) {
        if (!first_warp || !elect_one()) return;  // by a lane compared with 0 each copy would be a loop
        const int place = round % q_places, row = t * queries.H;
        if (q_places == 1)
            bulk_prefetch(queries.q + std::int64_t{row} * d, queries.H * d * static_cast<int>(sizeof(bf16)));
        mbarrier_wait_in_block(memory.q_empty[place], round / q_places % 2 ^ 1);
        mbarrier_arrive_expect(memory.q_full[place], sizeof memory.q[place]);
        for (int i = 0; i < panels; ++i)
            tma_load(&memory.q[place][i], q, {i * panel_columns, row}, memory.q_full[place]);
    };
    const auto find = [&](int t, int round) {
        if (t >= queries.T) return;  // never; without it ptxas spills some 100 bytes here
        std::uint32_t(&counts)[most_slots / 32] = memory.counts[round % 2];
        mbarrier_wait_in_block(memory.counts_empty[round % 2], round / 2 % 2 ^ 1);
        Selection::find_counting(memory.table, queries.row(t), queries.k, queries.S, thread, of_selectors,
                                 [&](int slot, std::uint32_t found) { counts[slot / 32] = found; });
        warp_arrives(memory.counts_full[round % 2]);
    };
    int t = static_cast<int>(blockIdx.x);
    load_q(t, 0);
    find(t, 0);
    for (int round = 1;; ++round) {
        t = queries.next(t);
        if (t >= queries.T) break;
        find(t, round);
        load_q(t, round);
    }
}

}  // namespace dsa::key_rows
