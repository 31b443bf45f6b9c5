// Two warpgroups that score in turn, each one tile of 48 keys, and a third that gathers. Each of the two owns half of
// v's columns and adds both p v's: that of its own tile, p still in its registers, and that of the other's tile,
// whose p comes through shared memory. The other's runs beside the softmax of its own.
//
// Tiles are counted over all items of a block: tile n lies in place n % stages, and warpgroup n % 2 scores it. So
// each tells before it hears again, and what was told of tile n has been read when the other tells of n + 1.
//
// A warpgroup's turn, tile n:  q k^T of n | p v of n - 1, begun | softmax of n, p told | p v of n | the next is n + 2
//
// What bounds it: the card's power (notes.md). In clocks, a tile: 1632 of the tensor cores, 1800 of shared memory's
// pipe, 2010 of L2 for its rows.
#pragma once

#include <type_traits>

#include "optimized/attention/head_rows.cuh"
#include "optimized/hopper/afresh.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/tma.h"
#include "optimized/sparse_prefill/work.cuh"

namespace dsa::latent_tile::in_turn {

inline constexpr int threads = 3 * warpgroup;
inline constexpr int tile_keys = 48;
inline constexpr int stages = 3;
inline constexpr int rows_each = tile_keys / 4;              // of a warp that gathers
inline constexpr int kept_panels = 3;                        // of q, in registers
inline constexpr int of_a_gatherer = 40, of_a_scorer = 232;  // registers
inline constexpr int apart = tile_keys * row_bytes;          // of a tile's panels
inline constexpr int panels_of_half = value_panels / 2, of_a_half = panels_of_half * apart;
// Of a tile: v's halves, each of which is free again when one warpgroup has weighed it, and the rotated columns.
inline constexpr int pieces = 3, rotated = 2;
// Which of q's panels are in registers: the last of each half, and the rotated columns.
inline constexpr int others_of_half = panels_of_half - 1;
inline constexpr int second_p = heads * 64;  // where p's keys from 32 on begin
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
    float end[2][heads];     // and their sum, in turn; of the last one: what the sums of p v are divided by
};
struct alignas(8) Valid {
    std::uint16_t of[4];  // bit i of number w: key 12 w + i counts
};
struct Shared {
    Tile tile[stages];
    Panel q[panels - kept_panels];
    unsigned char spare[heads / rows_of_a_warp + 1][of_a_warp];  // for what of the sums has no place in a half of a tile
    Told told[2];
    Valid valid[stages];
    Mbarrier q_full[2];              // by item, in turn
    Mbarrier full[stages][pieces];   // rows are there
    Mbarrier scored[stages];         // p is there
    Mbarrier empty[stages][pieces];  // p v is done
};

__device__ inline int tiles_of(const Work& work) { return work.k == 0 ? 1 : (work.k + tile_keys - 1) / tile_keys; }
__device__ inline int place_of(unsigned n) { return static_cast<int>(n % stages); }
__device__ inline int parity_of(unsigned n) { return static_cast<int>(n / stages % 2); }

__device__ inline void prepare(Shared& memory) {
    if (threadIdx.x < 8) memory.told[threadIdx.x / 4].rises[threadIdx.x % 4] = 0;
    if (threadIdx.x == 0) {
        for (Mbarrier& full : memory.q_full) mbarrier_init(full, 1);
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
// rows lie is asked for before the rows of the tile before it are, and known before their places are free. indices:
// ask(item, tile); answer(asked, tile, n), of tile n: lane i has row 12 w + i, -1 where the slot does not count.
template <class Indices>
__device__ void gather(Shared& memory, const Work& work, Indices indices) {
    constexpr int rows_at_once = 4, times = rows_each / rows_at_once;
    const int warp = warp_id(), lane = lane_id(), tiles = tiles_of(work), blocks = static_cast<int>(gridDim.x);
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

using KeptQ = std::uint32_t[kept_panels][steps][4];

// This thread's part of the panels that are kept. It comes in pieces of 16 bytes, which are not yet wgmma's fragments:
// q[panel][2 i + h] is piece lane % 4 of half h of row i.
__device__ inline void load_q(KeptQ& q, const Work& work, int item, int half) {
    const int thread = afresh(static_cast<int>(threadIdx.x)), first_row = work.first_row(item);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        // Past the last head there are no rows, or another query's: they are not stored.
        const int row = min(first_row + wgmma_row(thread, 2 * i), work.T * work.H - 1);
        const bf16* from = work.q + std::int64_t{row} * d + thread % 4 * 8;
#pragma unroll
        for (int panel = 0; panel < kept_panels; ++panel) {
            const int number = panel == rotated ? value_panels : (panel ^ half ^ 1) * panels_of_half + others_of_half;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const auto piece = *reinterpret_cast<const FourPairs*>(from + number * panel_columns + h * 32);
#pragma unroll
                for (int word = 0; word < 4; ++word) q[panel][2 * i + h][word] = piece.v[word];
            }
        }
    }
}
// Fragments of them.
__device__ inline void arrange_q(KeptQ& q) {
#pragma unroll
    for (int panel = 0; panel < kept_panels; ++panel) {
        std::uint32_t whole[4][4];
#pragma unroll
        for (int i = 0; i < 16; ++i) whole[i / 4][i % 4] = q[panel][i / 4][i % 4];
#pragma unroll
        for (int i = 0; i < 4; ++i) gather_quad(whole[i]);
#pragma unroll
        for (int i = 0; i < 16; ++i) q[panel][i / 4 % 2 * 2 + i % 4 / 2][i / 8 + i % 2 * 2] = whole[i / 4][i % 4];
    }
}

// One thread: the other panels.
__device__ inline void load_rest_of_q(Shared& memory, const TensorMap& q, int row, Mbarrier& full) {
    mbarrier_arrive_expect(full, sizeof memory.q);
    for (int i = 0; i < panels - kept_panels; ++i)
        tma_load(&memory.q[i], q, {(i < others_of_half ? i : i + 1) * panel_columns, row}, full);
}

// The running softmax with less to do: whether any of this thread's own numbers lies beyond the reference is asked of
// the warp by one vote, and only if so do the four threads of a row look for its maximum.
struct SeldomSoftmax : RunningSoftmax {
    // The other warpgroup's tile has moved the reference.
    __device__ void follow(int row, float by, float to) {
        sum[row] *= by;
        reference[row] = to;
    }
    // s becomes p. Whether older sums of any row of this warp are rescaled, by `factor`.
    template <int half_n>
    __device__ bool step(float (&s)[half_n], const std::uint32_t (&valid)[(half_n + 15) / 16], float to_log2,
                         float grow) {
        std::uint32_t all_valid = 0xffffffffU;
        for (const std::uint32_t word : valid) all_valid &= word;
        if (all_valid != 0xffffffffU) {
            const int first = afresh(lane_id() % 4 * 2);
            std::uint32_t own[(half_n + 15) / 16];
#pragma unroll
            for (int i = 0; i < (half_n + 15) / 16; ++i) own[i] = valid[i] >> first;
#pragma unroll
            for (int i = 0; i < half_n; ++i)
                if ((own[i / 16] & 1U << (i / 4 * 8 % 32 + i % 2)) == 0) s[i] = minus_infinity();
        }
        float most[2][2];
#pragma unroll
        for (int i = 0; i < 4; ++i) most[i / 2][i % 2] = s[i];
#pragma unroll
        for (int i = 4; i < half_n; ++i) most[i / 2 % 2][i % 2] = fmaxf(most[i / 2 % 2][i % 2], s[i]);
        bool beyond[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            largest[row] = fmaxf(largest[row], fmaxf(most[row][0], most[row][1]));
            beyond[row] = largest[row] > reference[row] + grow;
        }
        const bool rises = __any_sync(all_lanes, beyond[0] || beyond[1]) != 0;
        if (rises)
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float before = reference[row], all = row_largest(row);
                factor[row] = 1.0F;
                if (!(all > before + grow)) continue;
                reference[row] = all;
                factor[row] = exp2_of((before - all) * to_log2);
                sum[row] *= factor[row];
            }
        float added[2][2] = {}, below[2];
#pragma unroll
        for (int row = 0; row < 2; ++row)
            below[row] = reference[row] == minus_infinity() ? 0.0F : reference[row] * to_log2;
#pragma unroll
        for (int i = 0; i < half_n; ++i) {
            const int row = i / 2 % 2;
            s[i] = exp2_of(s[i] * to_log2 - below[row]);
            added[row][i % 2] += s[i];
        }
#pragma unroll
        for (int row = 0; row < 2; ++row) sum[row] += added[row][0] + added[row][1];
        return rises;
    }
    // Of the whole row.
    __device__ float row_largest(int row) const {
        float all = largest[row];
#pragma unroll
        for (int flip = 1; flip < 4; flip *= 2) all = fmaxf(all, __shfl_xor_sync(all_lanes, all, flip));
        return all;
    }
};

using P = std::uint32_t[tile_keys / 16][4];

// p to shared memory, for the other warpgroup. (As store_fragment does, which would keep an address of each step.)
__device__ inline void store_p(const P& p, unsigned char* to) {
    const auto thread = static_cast<std::uint32_t>(afresh(static_cast<int>(threadIdx.x)));
    const std::uint32_t row = thread / 32 % 4 * 16 + thread % 16, piece = thread / 16 % 2 * 16;
    const std::uint32_t first = swizzled_offset(row * 64 + piece, Swizzle::bytes_64);
    store_matrices(p[0], to + first);
    store_matrices(p[1], to + (first ^ 32));
    store_matrices(p[2], to + second_p + swizzled_offset(row * 32 + piece, Swizzle::bytes_32));
}

using Sums = float[d_v / 4];  // [heads, d_v / 2]

__device__ inline void release(Shared& memory, int at, int half) {
    __syncwarp();
    if (lane_id() != 0) return;
    mbarrier_arrive(memory.empty[at][half]);
    mbarrier_arrive(memory.empty[at][rotated]);
}

// s (+)= q k^T over a half of v's columns. last: q's last panel of them.
__device__ inline void score_half(float (&s)[tile_keys / 2], const Panel* q, const std::uint32_t (&last)[steps][4],
                                  const unsigned char* k, bool add) {
    score<others_of_half, apart>(s, q, k, add);
    score<1, apart>(s, last, k + others_of_half * apart, true);
}

__device__ inline void multiply(Sums& out, const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < d_v / 4; ++i) out[i] *= factor[i / 2 % 2];
}

// Tile n, which the other warpgroup has scored: p v begins. first: there are no sums yet.
__device__ inline void begin_other(Shared& memory, unsigned n, bool none, bool first, int half, SeldomSoftmax& softmax, Sums& out) {
    const int at = __shfl_sync(all_lanes, place_of(n), 0), row = wgmma_row(static_cast<int>(threadIdx.x), 0);
    mbarrier_wait_in_block(memory.scored[at], parity_of(n));
    // p was written as threads write. Here and not where p is told: there the fence would wait for p v under way.
    fence_proxy_async_shared();
    Told& told = memory.told[1 - half];
    if (told.rises[warp_id() % 4] != 0) {
        const float factor[2] = {told.factor[row], told.factor[row + 8]};
#pragma unroll
        for (int i = 0; i < 2; ++i) softmax.follow(i, factor[i], told.reference[row + 8 * i]);
        if (!first) multiply(out, factor);
        __syncwarp();
        if (lane_id() == 0) told.rises[warp_id() % 4] = 0;
    }
    hold(out);
    wgmma_fence();
    const unsigned char *v = memory.tile[at].at + half * of_a_half, *p = none ? v : memory.tile[at].p();
    weigh<Swizzle::bytes_64, apart>(out, p, v, !first);
    weigh<Swizzle::bytes_32, apart>(out, p + second_p, v + 32 * row_bytes, true);
    wgmma_commit();
}
__device__ inline void end(Sums& out) {
    wgmma_wait<0>();
    hold(out);
}

__device__ inline float* end_of(Shared& memory, unsigned n) { return memory.told[n % 2].end[n / 2 % 2]; }

// To global memory, when all of an item's tiles up to n are weighed: through the half of that tile's place that is this
// warpgroup's own, each warp by itself. A quarter has no place there. Who did not score the tile, and so was the last
// to read its p, takes the place of that, where it is large enough.
__device__ inline void store(Shared& memory, const Work& work, const TensorMap& out_map, int item, int half,
                             unsigned n, const Sums& out) {
    constexpr int there = 3, panel_bytes = static_cast<int>(sizeof(Panel));  // panels
    const int row = wgmma_row(static_cast<int>(threadIdx.x), 0), warp = warp_id() % 4;
    Tile& tile = memory.tile[place_of(n)];
    unsigned char* place = tile.at + half * of_a_half;
    unsigned char* last = static_cast<int>(n % 2) == half ? memory.spare[0] : warp < 3 ? tile.p() : memory.spare[1];
    const float one_over[2] = {1.0F / end_of(memory, n)[row], 1.0F / end_of(memory, n)[row + 8]};
    // Where items have one tile, the other warpgroup may not yet have stored the item before.
    if (n > 0 && tiles_of(work) == 1) mbarrier_wait_in_block(memory.empty[place_of(n - 1)][1 - half], parity_of(n - 1));
    barrier_sync(scorers_barrier + half, warpgroup);  // all its warps have weighed v
    store_panels<panel_bytes, there * 32>(out, one_over, place);
    store_panels<panel_bytes, 32>(out + there * 32, one_over, last);
    fence_proxy_async_shared();
    __syncwarp();
    if (lane_id() != 0) return;
    const int query = work.query(item), head = (item - query * work.groups) * heads + warp * rows_of_a_warp;
    for (int panel = 0; panel <= there; ++panel)
        tma_store(out_map, {(half * panels_of_half + panel) * panel_columns, head, query},
                  (panel < there ? place + panel * panel_bytes : last) + warp * of_a_warp);
    bulk_commit();
}
// When it has read what it stores.
__device__ inline void release_stored(Shared& memory, int at, int half) {
    if (lane_id() == 0) bulk_wait_read<0>();
    release(memory, at, half);
}

// What the sums of p v of a row are divided by.
__device__ inline float divisor(const Work& work, const SeldomSoftmax& softmax, int item, int i) {
    const float reference = softmax.reference[i] * work.result.scale;
    if (reference == minus_infinity()) return -minus_infinity();
    const int head = work.first_head(item) + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
    return denominator(work.result, min(head, work.H - 1), reference, softmax.sum[i]);
}

// Of the last tile's scorer: lse and the maximum of a row, by one lane each.
__device__ inline void tell_rows(const Work& work, const SeldomSoftmax& softmax, int item) {
    const int i = lane_id() % 4;
    if (i >= 2) return;
    const auto own = [&](const float (&of)[2]) { return i == 0 ? of[0] : of[1]; };
    const int query = work.query(item), head = (item - query * work.groups) * heads + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
    if (head >= work.H) return;
    const int at = query * work.H + head;
    work.result.lse[at] = told_lse(work.result, own(softmax.reference) * work.result.scale, own(softmax.sum));
    if (work.result.max_logit != nullptr) work.result.max_logit[at] = own(softmax.largest) * work.result.scale;
}

// half: of v's columns, and the number of this warpgroup.
__device__ inline void score_and_weigh(Shared& memory, const Work& work, const TensorMap& q_map,
                                       const TensorMap& out_map, int half) {
    const float to_log2 = work.result.scale * one_over_ln2, grow = SeldomSoftmax::let_grow / to_log2;
    const int warp = warp_id() % 4, tiles = tiles_of(work), row = wgmma_row(static_cast<int>(threadIdx.x), 0);
    const int blocks = static_cast<int>(gridDim.x);
    const bool first_thread = threadIdx.x % warpgroup == 0;
    Told& telling = memory.told[half];
    const Told& other = memory.told[1 - half];
    // This warpgroup's tile n is number `tile` of an item, which is the block's `round`-th.
    unsigned n = static_cast<unsigned>(half);
    int item = static_cast<int>(blockIdx.x), tile = 0, round = 0;
    const auto advance = [&](int by) {
        for (tile += by; tile >= tiles; tile -= tiles) {
            item += blocks;
            ++round;
        }
    };
    if (first_thread && half == 0) load_rest_of_q(memory, q_map, work.first_row(item), memory.q_full[0]);
    advance(half);
    KeptQ q;
    if (item < work.items) load_q(q, work, item, half);
    SeldomSoftmax softmax;
    Sums out;
    // What this warpgroup has stored at its last turn's end.
    const auto settle = [&] {
        if ((tile == 1 || tiles == 1) && n >= 2) release_stored(memory, place_of(n - 2), half);
    };
    const auto turn = [&](auto at_border) {
        constexpr bool border = decltype(at_border)::value;
        const bool none = border && n == 0;
        wgmma_wait<0>();  // there is none, as ptxas does not see
        const int at = __shfl_sync(all_lanes, place_of(n), 0);   // uniform, sees ptxas
        const bool last = border && tile + 1 == tiles;
        const unsigned char *k = memory.tile[at].at, *own = k + half * of_a_half, *others = k + (1 - half) * of_a_half;
        const Panel *own_q = memory.q + half * others_of_half, *others_q = memory.q + (1 - half) * others_of_half;
        float s[tile_keys / 2];
        P p;
        const bool more = last && item + blocks < work.items;
        const int next_row = more ? work.first_row(item + blocks) : 0;
        if (border) settle();
        if (border && tile < 2) {
            arrange_q(q);
            mbarrier_wait_in_block(memory.q_full[round % 2], round / 2 % 2);
        }
        mbarrier_wait_in_block(memory.full[at][1 - half], parity_of(n));
        fence_proxy_async_shared();  // cp.async writes as threads do
        hold(s);
        wgmma_fence();
        score<others_of_half, apart>(s, others_q, others, false);
        mbarrier_wait_in_block(memory.full[at][half], parity_of(n));
        mbarrier_wait_in_block(memory.full[at][rotated], parity_of(n));
        fence_proxy_async_shared();
        wgmma_fence();
        score<others_of_half, apart>(s, own_q, own, true);
        score<1, apart>(s, q[0], others + others_of_half * apart, true);
        score<1, apart>(s, q[1], own + others_of_half * apart, true);
        score<1, apart>(s, q[rotated], k + value_panels * apart, true);
        wgmma_commit();
        const Valid counts = memory.valid[at];
        {
            begin_other(memory, n - 1, none, border && tile == (tiles == 1 ? 0 : 1), half, softmax, out);
            if (border && tile == 0) softmax = {};
        }
        wgmma_wait<1>();
        hold(s);
        barrier_sync(scorers_barrier + half, warpgroup);  // all its products have read the rotated columns, and q
        if (more && first_thread) load_rest_of_q(memory, q_map, next_row, memory.q_full[(round + 1) % 2]);
        const std::uint32_t valid[2] = {
            counts.of[0] | std::uint32_t{counts.of[1]} << 12 | std::uint32_t{counts.of[2]} << 24,
            std::uint32_t{counts.of[2]} >> 8 | std::uint32_t{counts.of[3]} << 4 | 0xffff0000U};
        const bool rises = softmax.step(s, valid, to_log2, grow);
#pragma unroll
        for (int step = 0; step < tile_keys / 16; ++step) fragment_of(s + 8 * step, p[step]);
        store_p(p, memory.tile[at].p());
        if (rises) {
            if (lane_id() == 0) telling.rises[warp] = 1;
            __syncwarp();
            if (lane_id() % 4 == 0)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    telling.factor[row + 8 * i] = softmax.factor[i];
                    telling.reference[row + 8 * i] = softmax.reference[i];
                }
        }
        if (border && tile + 2 >= tiles) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int r = row + 8 * i;
                softmax.largest[i] = softmax.row_largest(i);
                softmax.sum[i] = softmax.total(i);
                if (last && tile > 0) {
                    softmax.largest[i] = fmaxf(softmax.largest[i], other.largest[r]);
                    softmax.sum[i] += end_of(memory, n - 1)[r] * (rises ? softmax.factor[i] : 1.0F);
                }
                if (lane_id() % 4 != 0) continue;
                if (!last) telling.largest[r] = softmax.largest[i];
                end_of(memory, n)[r] = last ? divisor(work, softmax, item, i) : softmax.sum[i];
            }
        }
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(memory.scored[at]);
        if (border && tile + 2 >= tiles) {
            const int next = item + (tiles == 1 ? 2 : 1) * blocks;
            if (next < work.items) load_q(q, work, next, half);
        }
        {
            end(out);
            if (border && tile == 0) {
                if (!none) store(memory, work, out_map, item - blocks, half, n - 1, out);
            } else {
                release(memory, place_of(n - 1), half);
            }
            if (rises) multiply(out, softmax.factor);
        }
        hold(out);
        wgmma_fence();
        weigh<apart>(out, p, own, !border || tile > 0);
        wgmma_commit();
        end(out);
        if (border && tile == 0 && !none) release_stored(memory, place_of(n - 1), half);
        if (last) {
            store(memory, work, out_map, item, half, n, out);
            tell_rows(work, softmax, item);
            softmax = {};
        } else {
            release(memory, at, half);
        }
        n += 2;
        if constexpr (border)
            advance(2);
        else
            tile += 2;
        wgmma_wait<0>();
    };
    while (item < work.items) {
        while (tile >= 2 && tile + 2 < tiles) turn(std::false_type{});
        turn(std::true_type{});
    }
    settle();
    // The block's last tile, if the other has scored it.
    if (tile == 0 && item - blocks < work.items) {
        begin_other(memory, n - 1, false, tiles == 1, half, softmax, out);
        end(out);
        store(memory, work, out_map, item - blocks, half, n - 1, out);
    }
    if (lane_id() == 0) bulk_wait<0>();
}

}  // namespace dsa::latent_tile::in_turn
