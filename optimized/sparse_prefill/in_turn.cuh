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
inline constexpr int kept_panels = 2;                        // of q, in registers
inline constexpr int of_a_gatherer = 40, of_a_scorer = 232;  // registers
inline constexpr int apart = tile_keys * row_bytes;          // of a tile's panels
inline constexpr int panels_of_half = value_panels / 2, of_a_half = panels_of_half * apart;
// Of a tile: v's halves, each of which is free again when one warpgroup has weighed it, and the rotated columns.
inline constexpr int pieces = 3, rotated = 2;
// Which of q's panels are in registers: one of the first half, and the rotated columns.
inline constexpr int kept_first = panels_of_half - 1, kept_second = value_panels;
inline constexpr int second_p = heads * 64;  // where p's keys from 32 on begin
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
    float end[heads];        // and their sum; of the last one: what the sums of p v are multiplied by
};
struct alignas(8) Valid {
    std::uint16_t of[4];  // bit i of number w: key 12 w + i counts
};
struct Shared {
    Tile tile[stages];
    Panel q[panels - kept_panels];
    Told told[2];
    Valid valid[stages];
    Mbarrier q_full;
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

// This thread's part of the panels that are kept.
__device__ inline void load_q(KeptQ& q, const Work& work, int item) {
    const bf16* rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = work.first_row(item) + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        // Past the last head there are no rows, or another query's: they are not stored.
        rows[i] = work.q + std::int64_t{min(row, work.T * work.H - 1)} * d + lane_id() % 4 * 2;
    }
#pragma unroll
    for (int step = 0; step < kept_panels * steps; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            q[step / steps][step % steps][i] = *reinterpret_cast<const std::uint32_t*>(
                rows[i % 2] + (step < steps ? kept_first : kept_second) * panel_columns + step % steps * 16 +
                i / 2 * 8);
}

// One thread: the other panels.
__device__ inline void load_rest_of_q(Shared& memory, const Work& work, const TensorMap& q, int item) {
    const int row = work.first_row(item);
    mbarrier_arrive_expect(memory.q_full, sizeof memory.q);
    for (int i = 0; i < panels - kept_panels; ++i)
        tma_load(&memory.q[i], q, {(i < kept_first ? i : i + 1) * panel_columns, row}, memory.q_full);
}

// The running softmax with less to do: whether any of this thread's own numbers lies beyond the reference is asked of
// the warp by one vote, and only if so do the four threads of a row look for its maximum.
struct SeldomSoftmax : RunningSoftmax {
    float limit[2] = {minus_infinity(), minus_infinity()};  // s beyond it moves the reference
    float below[2] = {};                                    // the reference as an exponent of 2

    __device__ void refer(int row, float to, float to_log2) {
        reference[row] = to;
        limit[row] = to + let_grow / to_log2;
        below[row] = to == minus_infinity() ? 0.0F : to * to_log2;
    }
    // The other warpgroup's tile has moved the reference.
    __device__ void follow(int row, float by, float to, float to_log2) {
        sum[row] *= by;
        refer(row, to, to_log2);
    }
    // s becomes p. Whether older sums of any row of this warp are rescaled, by `factor`.
    template <int half_n>
    __device__ bool step(float (&s)[half_n], const std::uint32_t (&valid)[(half_n + 15) / 16], float to_log2) {
        std::uint32_t all_valid = 0xffffffffU;
        for (const std::uint32_t word : valid) all_valid &= word;
        if (all_valid != 0xffffffffU) {
            const int first = lane_id() % 4 * 2;
#pragma unroll
            for (int i = 0; i < half_n; ++i)
                if ((valid[i / 16] >> first & 1U << (i / 4 * 8 % 32 + i % 2)) == 0) s[i] = minus_infinity();
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
            beyond[row] = largest[row] > limit[row];
        }
        const bool rises = __any_sync(all_lanes, beyond[0] || beyond[1]) != 0;
        if (rises)
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                const float before = reference[row], all = row_largest(row);
                factor[row] = 1.0F;
                if (!(all > limit[row])) continue;
                refer(row, all, to_log2);
                factor[row] = exp2_of((before - all) * to_log2);
                sum[row] *= factor[row];
            }
        float added[2][2] = {};
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

using Sums = float[d_v / 4];  // [heads, d_v / 2]

__device__ inline void release(Shared& memory, int at, int half) {
    __syncwarp();
    if (lane_id() != 0) return;
    mbarrier_arrive(memory.empty[at][half]);
    mbarrier_arrive(memory.empty[at][rotated]);
}

// s (+)= q k^T over a half of v's columns, and over the rotated ones.
template <int half>
__device__ inline void score_half(float (&s)[tile_keys / 2], const Shared& memory, const KeptQ& q, int at, bool add) {
    const unsigned char* k = memory.tile[at].at + half * of_a_half;
    if constexpr (half == 0) {
        score<kept_first, apart>(s, memory.q, k, add);
        score<1, apart>(s, q[0], k + kept_first * apart, true);
    } else {
        score<panels_of_half, apart>(s, memory.q + kept_first, k, add);
    }
}

__device__ inline void multiply(Sums& out, const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < d_v / 4; ++i) out[i] *= factor[i / 2 % 2];
}

// Tile n, which the other warpgroup has scored: p v begins. first: there are no sums yet.
__device__ inline void begin_other(Shared& memory, unsigned n, bool first, int half, float to_log2,
                                   SeldomSoftmax& softmax, Sums& out) {
    const int at = __shfl_sync(all_lanes, place_of(n), 0), row = wgmma_row(static_cast<int>(threadIdx.x), 0);
    mbarrier_wait_in_block(memory.scored[at], parity_of(n));
    // p was written as threads write. Here and not where p is told: there the fence would wait for p v under way.
    fence_proxy_async_shared();
    Told& told = memory.told[1 - half];
    if (told.rises[warp_id() % 4] != 0) {
        const float factor[2] = {told.factor[row], told.factor[row + 8]};
#pragma unroll
        for (int i = 0; i < 2; ++i) softmax.follow(i, factor[i], told.reference[row + 8 * i], to_log2);
        if (!first) multiply(out, factor);
        __syncwarp();
        if (lane_id() == 0) told.rises[warp_id() % 4] = 0;
    }
    hold(out);
    wgmma_fence();
    const unsigned char *v = memory.tile[at].at + half * of_a_half, *p = memory.tile[at].p();
    weigh<Swizzle::bytes_64, apart>(out, p, v, !first);
    weigh<Swizzle::bytes_32, apart>(out, p + second_p, v + 32 * row_bytes, true);
    wgmma_commit();
}
__device__ inline void end(Sums& out) {
    wgmma_wait<0>();
    hold(out);
}

// To global memory through the place of tile `at`, whose half is this warpgroup's own.
__device__ inline void store(Shared& memory, const Work& work, const TensorMap& out_map, int item, int half, int at,
                             const float* one_over_of, const Sums& out) {
    const int row = wgmma_row(static_cast<int>(threadIdx.x), 0);
    const float one_over[2] = {one_over_of[row], one_over_of[row + 8]};
    unsigned char* v = memory.tile[at].at + half * of_a_half;
    const int query = work.query(item), head = work.first_head(item);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
        // All its warps have weighed v, or the store has read it.
        barrier_sync(scorers_barrier + half, warpgroup);
        store_panels<sizeof(Panel), d_v / 8>(out + part * d_v / 8, one_over, v);
        fence_proxy_async_shared();
        barrier_sync(scorers_barrier + half, warpgroup);
        if (threadIdx.x % warpgroup != 0) continue;
        for (int panel = 0; panel < value_panels / 4; ++panel)
            tma_store(out_map, {((2 * half + part) * value_panels / 4 + panel) * panel_columns, head, query},
                      v + panel * static_cast<int>(sizeof(Panel)));
        bulk_commit();
        bulk_wait_read<0>();
    }
}

// half: of v's columns, and the number of this warpgroup.
template <int half>
__device__ inline void score_and_weigh(Shared& memory, const Work& work, const TensorMap& q_map,
                                       const TensorMap& out_map) {
    const float to_log2 = work.result.scale * one_over_ln2;
    const int warp = warp_id() % 4, tiles = tiles_of(work), row = wgmma_row(static_cast<int>(threadIdx.x), 0);
    const bool first_thread = threadIdx.x % warpgroup == 0;
    Told& telling = memory.told[half];
    const Told& other = memory.told[1 - half];
    int item = static_cast<int>(blockIdx.x);
    KeptQ q;
    load_q(q, work, item);
    if (first_thread && half == 0) load_rest_of_q(memory, work, q_map, item);
    unsigned first = 0;  // of the item's tiles
    for (int round = 0; item < work.items; ++round, first += static_cast<unsigned>(tiles)) {
        const int next_item = item + static_cast<int>(gridDim.x);
        SeldomSoftmax softmax;
        Sums out;
        std::uint32_t p[tile_keys / 16][4];
        const auto turn = [&](auto none_before, int tile) {
            constexpr bool any_before = !decltype(none_before)::value;  // of the item's tiles
            const unsigned n = first + static_cast<unsigned>(tile);
            const int at = __shfl_sync(all_lanes, place_of(n), 0);  // uniform, sees ptxas
            const bool last = tile + 1 == tiles;
            unsigned char* k = memory.tile[at].at;
            float s[tile_keys / 2];
            mbarrier_wait_in_block(memory.full[at][1 - half], parity_of(n));
            fence_proxy_async_shared();  // cp.async writes as threads do
            hold(s);
            wgmma_fence();
            score_half<1 - half>(s, memory, q, at, false);
            mbarrier_wait_in_block(memory.full[at][half], parity_of(n));
            mbarrier_wait_in_block(memory.full[at][rotated], parity_of(n));
            fence_proxy_async_shared();
            wgmma_fence();
            score_half<half>(s, memory, q, at, true);
            score<1, apart>(s, q[1], k + kept_second * apart, true);
            wgmma_commit();
            const Valid counts = memory.valid[at];
            if constexpr (any_before) begin_other(memory, n - 1, tile == 1, half, to_log2, softmax, out);
            wgmma_wait<any_before ? 1 : 0>();
            hold(s);
            barrier_sync(scorers_barrier + half, warpgroup);  // all its products have read the rotated columns, and q
            if (last && next_item < work.items && first_thread) load_rest_of_q(memory, work, q_map, next_item);
            const std::uint32_t valid[2] = {
                counts.of[0] | std::uint32_t{counts.of[1]} << 12 | std::uint32_t{counts.of[2]} << 24,
                std::uint32_t{counts.of[2]} >> 8 | std::uint32_t{counts.of[3]} << 4 | 0xffff0000U};
            const bool rises = softmax.step(s, valid, to_log2);
#pragma unroll
            for (int step = 0; step < tile_keys / 16; ++step) {
                fragment_of(s + 8 * step, p[step]);
                if (step < 2)
                    store_fragment<Swizzle::bytes_64>(p[step], step, memory.tile[at].p());
                else
                    store_fragment<Swizzle::bytes_32>(p[step], step - 2, memory.tile[at].p() + second_p);
            }
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
            if (tile + 2 >= tiles) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    softmax.largest[i] = softmax.row_largest(i);
                    const float sum = softmax.total(i);
                    if (last || lane_id() % 4 != 0) continue;
                    telling.largest[row + 8 * i] = softmax.largest[i];
                    telling.end[row + 8 * i] = sum;
                }
                if (last && any_before)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        softmax.largest[i] = fmaxf(softmax.largest[i], other.largest[row + 8 * i]);
                        if (lane_id() % 4 == 0)
                            softmax.sum[i] += other.end[row + 8 * i] * (rises ? softmax.factor[i] : 1.0F);
                    }
                if (last) conclude(work, softmax, item, telling.end);
            }
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.scored[at]);
            if constexpr (any_before) {
                end(out);
                release(memory, place_of(n - 1), half);
                if (rises) multiply(out, softmax.factor);
            }
            hold(out);
            wgmma_fence();
            weigh<apart>(out, p, k + half * of_a_half, any_before);
            wgmma_commit();
            end(out);
            if (!last) release(memory, at, half);
        };
        int tile = (static_cast<int>(first % 2) + half) % 2;
        // Who scores no tile of an item does not wait: the other may ask for the next one's q before.
        if (tile < tiles) mbarrier_wait_in_block(memory.q_full, round % 2);
        if (tile == 0) {
            turn(std::true_type{}, 0);
            tile = 2;
        }
        for (; tile < tiles; tile += 2) turn(std::false_type{}, tile);
        if (next_item < work.items) load_q(q, work, next_item);
        const unsigned last = first + static_cast<unsigned>(tiles) - 1;
        const bool mine = static_cast<int>(last % 2) == half;
        if (!mine) {
            begin_other(memory, last, tiles == 1, half, to_log2, softmax, out);
            end(out);
        }
        store(memory, work, out_map, item, half, place_of(last), memory.told[last % 2].end, out);
        release(memory, place_of(last), half);
        item = next_item;
    }
    if (first_thread) bulk_wait<0>();
}

}  // namespace dsa::latent_tile::in_turn
