// Attention of 64 heads over a query's selected latents with three tiles of 48 in shared memory: while p v of a tile
// goes on, the next one is scored and has its softmax made, and the third one comes. Of a block's four warpgroups one
// brings tiles, and how is the kernel's own; here is what the others do: one scores, two weigh, 256 of the value's
// columns each.
//
//     brings   tile i + 3 when `empty`                  -> full
//     scores   q k^T (i + 1) when `full` -> multiplied; its softmax                -> scored
//     weigh    p v (i) when `scored`, and q k^T (i + 1) is done                    -> empty
//
// A block takes item after item: 64 heads of a query, over its selection or a part of it. What an item is says Job:
//
//     first, items, stride     the block's items are first, first + stride, ... below items
//     scale                    of softmax, positive
//     q, rows_of_q             [rows_of_q, d]
//     tiles(item)              how many, at least one
//     first_row(item)          of q
//     keys(item)               with ask(tile) before the products, valid(tile, words) after: which of a tile's keys
//     count conclude(softmax, item, one_over)   the scorers, at its end leave(item, half, sums, one_over, place) the
//     weighers, at its end; `place` may be written release(empty)           a weigher's warp: the tile may be written
//     copied_by_threads        whether tiles are written through the generic proxy, without a fence
#pragma once

#include "optimized/attention/head_rows.cuh"
#include "optimized/attention/latent_tile.cuh"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/mbarrier.h"
#include "optimized/hopper/ring.h"
#include "optimized/hopper/tma.h"

namespace dsa::latent_tile {

inline constexpr int tile_keys = 48;
inline constexpr int stages = 3;
inline constexpr int apart = tile_keys * row_bytes;  // of a tile's panels
inline constexpr int second_p = heads * 64;          // where p's keys from 32 on begin
enum : int { scorers_barrier = 1, weighers_barrier = 2, selection_barrier = 4 };

struct alignas(1024) TileOf48 {
    unsigned char at[panels * apart];  // [panels, tile_keys, panel_columns]
};
// Not in the place of the rotated columns: then the scorers' four warps would wait for each other.
struct alignas(1024) WeightsOf48 {
    unsigned char at[heads * tile_keys * 2];  // [heads, 32] and [heads, 16]
};
struct Rescaling {
    std::uint32_t rises[4];  // whether rows of warp w are rescaled
    float factor[heads];     // by what
    float one_over[heads];   // after an item's last tile: what its sums are multiplied by
};
// kept: of q's panels, in the scorers' registers.
template <int kept>
struct ThreeTiles {
    TileOf48 tile[stages];
    Panel q[panels - kept];
    WeightsOf48 p[stages];
    Rescaling rescaling[stages];
    Mbarrier q_full;
    Mbarrier full[stages];        // rows are there
    Mbarrier multiplied[stages];  // q k^T is done
    Mbarrier scored[stages];      // p is there
    Mbarrier empty[stages];       // p v is done

    // arrivals: until a tile is full. blocks: whose weighers release it.
    __device__ void init(int arrivals, int blocks) {
        mbarrier_init(q_full, 1);
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(full[i], arrivals);
            mbarrier_init(multiplied[i], 4);
            mbarrier_init(scored[i], 4);
            mbarrier_init(empty[i], 8 * blocks);
        }
        fence_mbarrier_init();
    }
};

// The tile that comes next, counted over all items of a block.
using Turn = RingTurn<stages>;

template <int kept>
using KeptQ = std::uint32_t[kept * steps][4];

// This thread's part of q's first panels.
template <int kept, class Job>
__device__ void load_q(KeptQ<kept>& q, const Job& job, int item) {
    const bf16* rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const auto row = job.first_row(item) + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        // Past the last head there are no rows, or another query's: they are not stored.
        rows[i] = job.q + std::int64_t{min(row, job.rows_of_q - 1)} * d + lane_id() % 4 * 2;
    }
#pragma unroll
    for (int step = 0; step < kept * steps; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            q[step][i] = *reinterpret_cast<const std::uint32_t*>(rows[i % 2] + step * 16 + i / 2 * 8);
}

// One thread: the other panels.
template <int kept, class Job>
__device__ void load_rest_of_q(ThreeTiles<kept>& memory, const Job& job, const TensorMap& q, int item) {
    mbarrier_arrive_expect(memory.q_full, sizeof memory.q);
    for (int panel = kept; panel < panels; ++panel)
        tma_load(&memory.q[panel - kept], q, {panel * panel_columns, job.first_row(item)}, memory.q_full);
}

template <int kept, class Job>
__device__ void score_tiles(ThreeTiles<kept>& memory, const Job& job, const TensorMap& q_map) {
    const float to_log2 = job.scale * one_over_ln2;
    const int warp = warp_id() % 4;
    const bool first_thread = threadIdx.x % warpgroup == 0;
    int item = job.first;
    KeptQ<kept> q;
    if (first_thread) load_rest_of_q(memory, job, q_map, item);
    load_q<kept>(q, job, item);
    Turn turn;
    int round = 0;
    for (; item < job.items; item += job.stride, ++round) {
        RunningSoftmax softmax;
        auto selected = job.keys(item);
        const int tiles = job.tiles(item);
        mbarrier_wait_in_block(memory.q_full, round % 2);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            unsigned char* k = memory.tile[__shfl_sync(all_lanes, turn.stage, 0)].at;  // uniform, sees ptxas
            mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
            if (Job::copied_by_threads) fence_proxy_async_shared();
            selected.ask(tile);  // after the fence, which would wait for them; the products hide them
            float s[tile_keys / 2];
            wgmma_fence();
            score<kept, apart>(s, q, k, false);
            score<panels - kept, apart>(s, memory.q, k + kept * apart, true);
            wgmma_commit();
            std::uint32_t valid[2];
            selected.valid(tile, valid);
            wgmma_wait<0>();
            hold(s);
            if (lane_id() == 0) mbarrier_arrive(memory.multiplied[turn.stage]);
            const bool last = tile + 1 == tiles;
            if (const int next = item + job.stride; last && next < job.items) {
                barrier_sync(scorers_barrier, warpgroup);  // all four warps' products have read q
                if (first_thread) load_rest_of_q(memory, job, q_map, next);
                load_q<kept>(q, job, next);
            }
            const bool rises = softmax.step(s, valid, to_log2);
            unsigned char* p = memory.p[turn.stage].at;
            store_weights<16>(s, p);
            store_weights<8>(s + 16, p + second_p);
            Rescaling& rescaling = memory.rescaling[turn.stage];
            if (lane_id() == 0) rescaling.rises[warp] = rises ? 1 : 0;
            if (rises && lane_id() % 4 == 0)
#pragma unroll
                for (int row = 0; row < 2; ++row)
                    rescaling.factor[wgmma_row(static_cast<int>(threadIdx.x), 2 * row)] = softmax.factor[row];
            if (last) job.conclude(softmax, item, rescaling.one_over);
            fence_proxy_async_shared();
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.scored[turn.stage]);
        }
    }
}

using Sums = float[2][d_v / 8];  // [2, heads, d_v / 4]: a weigher warpgroup's columns in halves

// half: of the value's columns.
template <int kept, class Job>
__device__ void weigh_tiles(ThreeTiles<kept>& memory, const Job& job, int half) {
    const int warp = warp_id() % 4;
    const int rows[2] = {wgmma_row(static_cast<int>(threadIdx.x), 0), wgmma_row(static_cast<int>(threadIdx.x), 2)};
    Turn turn;
    for (int item = job.first; item < job.items; item += job.stride) {
        const int tiles = job.tiles(item);
        Sums out;
        for (int tile = 0; tile < tiles; ++tile) {
            const Rescaling& rescaling = memory.rescaling[turn.stage];
            const int now = turn.stage;
            unsigned char* k = memory.tile[__shfl_sync(all_lanes, now, 0)].at;
            unsigned char* v = k + half * value_panels / 2 * apart;
            const unsigned char* p = memory.p[__shfl_sync(all_lanes, now, 0)].at;
            mbarrier_wait_in_block(memory.scored[now], turn.parity);
            turn.next();
            const bool last = tile + 1 == tiles;
            if (!last) mbarrier_wait_in_block(memory.multiplied[turn.stage], turn.parity);
            if (tile > 0 && rescaling.rises[warp] != 0) {
                const float factor[2] = {rescaling.factor[rows[0]], rescaling.factor[rows[1]]};
#pragma unroll
                for (int i = 0; i < d_v / 8; ++i)
#pragma unroll
                    for (float(&part)[d_v / 8] : out) part[i] *= factor[i / 2 % 2];
            }
#pragma unroll
            for (float(&part)[d_v / 8] : out) hold(part);
            wgmma_fence();
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                const unsigned char* columns = v + part * value_panels / 4 * apart;
                weigh<Swizzle::bytes_64, apart>(out[part], p, columns, tile > 0);
                weigh<Swizzle::bytes_32, apart>(out[part], p + second_p, columns + 32 * row_bytes, true);
            }
            wgmma_commit();
            wgmma_wait<0>();
#pragma unroll
            for (float(&part)[d_v / 8] : out) hold(part);
            if (last) {
                const float one_over[2] = {rescaling.one_over[rows[0]], rescaling.one_over[rows[1]]};
                job.leave(item, half, out, one_over, v);
            }
            job.release(memory.empty[now]);
        }
    }
    if (threadIdx.x % warpgroup == 0) bulk_wait<0>();
}

// What a weigher warpgroup leaves of an item goes by way of a place of 16 KB: when it is free they write, and when
// all have written one thread stores. The place is the warpgroup's own: all its warps have weighed it, or the store
// has read it.
__device__ inline void place_is_free(int half) { barrier_sync(weighers_barrier + half, warpgroup); }
template <class Store>
__device__ void when_written(int half, Store store) {
    fence_proxy_async_shared();
    barrier_sync(weighers_barrier + half, warpgroup);
    if (threadIdx.x % warpgroup != 0) return;
    store();
    bulk_commit();
    bulk_wait_read<0>();
}

// A weigher warpgroup's columns of the result.
__device__ inline void leave_result(const TensorMap& out_map, int query, int first_head, int half, const Sums& sums,
                                    const float (&one_over)[2], unsigned char* place) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        place_is_free(half);
        store_panels<sizeof(Panel), d_v / 8>(sums[part], one_over, place);
        when_written(half, [&] {
            for (int panel = 0; panel < value_panels / 4; ++panel)
                tma_store(out_map,
                          {((2 * half + part) * value_panels / 4 + panel) * panel_columns, first_head, query},
                          place + panel * static_cast<int>(sizeof(Panel)));
        });
    }
}

// The same of sums that are to be added to those of other parts: float32, not divided.
__device__ inline void leave_sums(const TensorMap& sums_map, int query_of_part, int first_head, int half,
                                  const Sums& sums, unsigned char* place) {
    constexpr int columns = row_bytes / 4, each = d_v / 8 / 2;  // of a panel; 64 columns at a time, two panels
#pragma unroll
    for (int piece = 0; piece < 4; ++piece) {
        place_is_free(half);
        store_sums<each>(sums[piece / 2], piece % 2 * each, place);
        when_written(half, [&] {
            for (int panel = 0; panel < 2; ++panel)
                tma_store(sums_map, {half * d_v / 2 + (2 * piece + panel) * columns, first_head, query_of_part},
                          place + panel * static_cast<int>(sizeof(Panel)));
        });
    }
}

}  // namespace dsa::latent_tile
