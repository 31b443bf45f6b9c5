// Two warpgroups that score in turn, each one tile of 48 keys, and a third that gathers. Each of the two owns half of
// v's columns and adds both p v's: that of its own tile, p still in its registers, and that of the other's tile,
// whose p comes through shared memory. The other's runs beside the softmax of its own.
//
// Tiles are counted over all items of a block: tile n lies in place n % stages, and warpgroup n % 2 scores it. So
// each tells before it hears again, and what was told of tile n has been read when the other tells of n + 1.
//
// A warpgroup's turn, tile n:  q k^T of n | p v of n - 1, begun | softmax of n, p told | p v of n | the next is n + 2
//
// Turns go on over items: who scores an item's last tile stores its half of the sums at that turn's end; the other
// one, which has begun with the next item's first tile, stores in its turn's middle, behind p v of the last tile.
// Both warpgroups run the same instructions, so that each finds them where the other has brought them. What is done
// once an item is in nobody's shadow, so it is short: copies are asked for by whom elect_one() names (of a lane that
// was compared with 0 ptxas does not see that it is alone, and makes a loop of each copy), nothing is divided, and
// shuffles and loads that need not wait for each other stand together.
//
// What bounds it: the card's power (notes.md). In clocks, a tile: 1632 of the tensor cores, 1730 of shared memory's
// pipe, 2010 of L2 for its rows.
#pragma once

#include <type_traits>

#include "optimized/attention/head_rows.cuh"
#include "optimized/hopper/afresh.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/tma.h"
#include "optimized/hopper/warp.h"
#include "optimized/sparse_prefill/in_turn_gather.cuh"

namespace dsa::latent_tile::in_turn {

using KeptQ = std::uint32_t[kept_panels][steps][4];

// This thread's part of the panels that are kept: of the half that is the other's, of its own, the rotated columns.
// It comes by 16 bytes, a quarter of the loads that fragments would take: q[panel][2 i + h] has piece lane % 4 of
// half h of row i.
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
// wgmma's fragments of them, when they are there.
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

// One thread: the other panels, of the rows from `row` on.
__device__ inline void load_rest_of_q(Shared& memory, const TensorMap& q, int row, Mbarrier& full) {
    mbarrier_arrive_expect(full, sizeof memory.q);
    for (int i = 0; i < panels - kept_panels; ++i)
        tma_load(&memory.q[i], q, {(i < others_of_half ? i : i + 1) * panel_columns, row}, full);
}

// One thread asks the L2 cache for all of an item's q, while the item before still has a turn to go.
__device__ inline void ask_for_q(const Work& work, int item) {
    const int rows = min(heads, work.H - work.first_head(item));
    bulk_prefetch(work.q + std::int64_t{work.first_row(item)} * d, rows * d * static_cast<int>(sizeof(bf16)));
}

// The running softmax with less to do: whether any of this thread's own numbers lies beyond the reference is asked of
// the warp by one vote, and only if so do the four threads of a row look for its maximum.
//
// p may grow to 2^32 before the reference follows: bf16 has float's exponents, and 2^12 slots of it leave 2^83 to v
// (level 5, which has more, less). With 2^8 a row's sums were rescaled some times an item where logits are as wide as
// V3.2's scale makes them.
struct SeldomSoftmax : RunningSoftmax {
    static constexpr float let_grow = 32.0F;
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
    // largest and sum become the whole rows', all four side by side.
    __device__ void fold_rows() {
#pragma unroll
        for (int flip = 1; flip < 4; flip *= 2) {
            float got[4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                got[i] = __shfl_xor_sync(all_lanes, largest[i], flip);
                got[2 + i] = __shfl_xor_sync(all_lanes, sum[i], flip);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                largest[i] = fmaxf(largest[i], got[i]);
                sum[i] += got[2 + i];
            }
        }
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

// p to shared memory, for the other warpgroup: what store_fragment does, without a register for each step's address.
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

__device__ inline void multiply(Sums& out, const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < d_v / 4; ++i) out[i] *= factor[i / 2 % 2];
}

// Tile n, which the other warpgroup has scored: p v begins. first: of an item, so the sums begin anew.
//
// none: tile 0 has no tile before it. The products are done all the same, since ptxas wants none under way to depend
// on a branch, and the sums begin anew behind them. n is ~0 then: p counts as told, and the place is that of
// tile 0, which is there. In p's stead v is multiplied, which nobody writes meanwhile.
static_assert(~0U % stages == 0 && ~0U / stages % 2 == 1);
__device__ inline void begin_other(Shared& memory, unsigned n, bool none, bool first, int half,
                                   SeldomSoftmax& softmax, Sums& out) {
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

// By the scorer of tile n.
__device__ inline float* end_of(Shared& memory, unsigned n) { return memory.told[n % 2].end[n / 2 % 2]; }

// The place through which this warp has stored, when that is read. Copies and this wait are of one thread.
__device__ inline void release_stored(Shared& memory, int at, int half) {
    if (elect_one()) {
        bulk_commit();
        bulk_wait_read<0>();
    }
    release(memory, at, half);
}

// What becomes of items that a block does whole: rows of out, lse and the maximum. (Level 9 leaves parts.)
struct WholeItems {
    static constexpr bool several = true;  // a block may have
    const Work& work;
    const TensorMap& out_map;

    __device__ int tiles() const { return tiles_of(work); }

    // To global memory, when an item is weighed, whose last tile is n: through the half of its place that is this
    // warpgroup's own, each warp its rows. Three of four panels have room there. The fourth goes through the spare
    // place; or through p's, for three of the warps, if the other has scored the tile and p is read. While the copy
    // engine takes a panel, the next one is written.
    __device__ void store(Shared& memory, int item, int half, unsigned n, const Sums& out) const {
        constexpr int there = of_a_half / static_cast<int>(sizeof(Panel)),
                      panel_bytes = static_cast<int>(sizeof(Panel));
        const int thread = afresh(static_cast<int>(threadIdx.x)), row = wgmma_row(thread, 0),
                  warp = __shfl_sync(all_lanes, thread / 32 % 4, 0);
        Tile& tile = memory.tile[place_of(n)];
        unsigned char* place = tile.at + half * of_a_half;
        unsigned char* last = static_cast<int>(n % 2) == half ? memory.spare[0]
                              : warp < 3                      ? tile.p()
                                                              : memory.spare[1];
        const float one_over[2] = {1.0F / end_of(memory, n)[row], 1.0F / end_of(memory, n)[row + 8]};
        barrier_sync(scorers_barrier + half, warpgroup);  // all its warps have weighed v
        const int query = work.query(item), head = (item - query * work.groups) * heads + warp * rows_of_a_warp;
#pragma unroll
        for (int panel = 0; panel <= there; ++panel) {
            unsigned char* to = panel < there ? place + panel * panel_bytes : last;
            store_panels<panel_bytes, 32>(out + panel * 32, one_over, to);
            fence_proxy_async_shared();
            __syncwarp();
            if (elect_one())
                tma_store(out_map, {(half * panels_of_half + panel) * panel_columns, head, query},
                          to + warp * of_a_warp);
        }
    }

    // What the sums of p v of a row are divided by; i: of this thread's two.
    __device__ float divisor(const SeldomSoftmax& softmax, int item, int i) const {
        const float reference = softmax.reference[i] * work.result.scale;
        if (reference == minus_infinity()) return -minus_infinity();
        const int head = work.first_head(item) + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        return denominator(work.result, min(head, work.H - 1), reference, softmax.sum[i]);
    }

    // lse and maximum: two lanes of four have a row each.
    __device__ void tell_rows(const SeldomSoftmax& softmax, int item) const {
        const int i = lane_id() % 4;
        if (i >= 2) return;
        const auto own = [&](const float(&of)[2]) { return i == 0 ? of[0] : of[1]; };
        const int query = work.query(item),
                  head = (item - query * work.groups) * heads + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        if (head >= work.H) return;
        const int at = query * work.H + head;
        work.result.lse[at] = told_lse(work.result, own(softmax.reference) * work.result.scale, own(softmax.sum));
        if (work.result.max_logit != nullptr) work.result.max_logit[at] = own(softmax.largest) * work.result.scale;
    }
};

// half: of v's columns, and the number of this warpgroup.
template <class Results>
__device__ void score_and_weigh(Shared& memory, const Work& work, const TensorMap& q_map, const Results& results,
                                int half) {
    const float to_log2 = work.result.scale * one_over_ln2;
    constexpr float largest = 0x1.fffffep127F;  // so that a first logit is beyond -inf and `grow`
    const float grow = fminf(SeldomSoftmax::let_grow / to_log2, largest);
    const int warp = warp_id() % 4, tiles = results.tiles(), row = wgmma_row(static_cast<int>(threadIdx.x), 0);
    const int blocks = static_cast<int>(gridDim.x);
    const bool first_warp = __shfl_sync(all_lanes, warp, 0) == 0;
    Told& telling = memory.told[half];
    const Told& other = memory.told[1 - half];
    // This warpgroup's next tile is n, number `tile` of an item, which is the block's `round`-th.
    unsigned n = static_cast<unsigned>(half);
    int item = static_cast<int>(blockIdx.x), tile = 0, round = 0;
    const auto advance = [&](int by) {
        for (tile += by; tile >= tiles; tile -= tiles) {
            item += blocks;
            ++round;
        }
    };
    if (first_warp && half == 0 && elect_one()) load_rest_of_q(memory, q_map, work.first_row(item), memory.q_full);
    advance(half);
    KeptQ q;
    if (item < work.items) load_q(q, work, item, half);
    SeldomSoftmax softmax;
    Sums out;
    // Where this warpgroup stored at its last turn's end.
    const auto settle = [&] {
        if (tile == 1 && n >= 2) release_stored(memory, place_of(n - 2), half);
    };
    // Turns with an item's first two tiles or its last two have code of their own: a warp that jumps over
    // instructions waits for those behind them, which cost 4 % of the clocks (notes.md).
    const auto turn = [&](auto at_border) {
        constexpr bool border = decltype(at_border)::value;
        const bool none = border && n == 0;
        wgmma_wait<0>();  // for nothing: without it ptxas waits after each product (C7518)
        const int at = __shfl_sync(all_lanes, place_of(n), 0);  // uniform, sees ptxas
        const bool last = border && tile + 1 == tiles;
        const unsigned char *k = memory.tile[at].at, *own = k + half * of_a_half,
                            *others = k + (1 - half) * of_a_half;
        const Panel *own_q = memory.q + half * others_of_half, *others_q = memory.q + (1 - half) * others_of_half;
        float s[tile_keys / 2];
        P p;
        const bool more = last && item + blocks < work.items;
        const int next_row = more ? work.first_row(item + blocks) : 0;
        if (border) settle();
        if (border && tile < 2) {
            arrange_q(q);
            mbarrier_wait_in_block(memory.q_full, round % 2);
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
        // Last what has q in registers.
        score<1, apart>(s, q[0], others + others_of_half * apart, true);
        score<1, apart>(s, q[1], own + others_of_half * apart, true);
        score<1, apart>(s, q[rotated], k + value_panels * apart, true);
        wgmma_commit();
        const Valid counts = memory.valid[at];
        begin_other(memory, n - 1, none, border && tile == 1, half, softmax, out);
        if (border && tile == 0) softmax = {};
        wgmma_wait<1>();
        hold(s);
        barrier_sync(scorers_barrier + half, warpgroup);  // all its products have read the rotated columns, and q
        if (more && first_warp && elect_one()) load_rest_of_q(memory, q_map, next_row, memory.q_full);
        const std::uint32_t valid[2] = {
            counts.of[0] | std::uint32_t{counts.of[1]} << 12 | std::uint32_t{counts.of[2]} << 24,
            std::uint32_t{counts.of[2]} >> 8 | std::uint32_t{counts.of[3]} << 4 | 0xffff0000U};
        if (border && tile + 2 == tiles && first_warp && item + blocks < work.items && elect_one())
            ask_for_q(work, item + blocks);
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
            float others_largest[2], others_sum[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                others_largest[i] = last ? other.largest[row + 8 * i] : minus_infinity();
                others_sum[i] = last ? end_of(memory, n - 1)[row + 8 * i] : 0.0F;
            }
            softmax.fold_rows();
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                softmax.largest[i] = fmaxf(softmax.largest[i], others_largest[i]);
                softmax.sum[i] += others_sum[i] * (rises ? softmax.factor[i] : 1.0F);
            }
            if (lane_id() % 4 == 0)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if (!last) telling.largest[row + 8 * i] = softmax.largest[i];
                    end_of(memory, n)[row + 8 * i] = last ? results.divisor(softmax, item, i) : softmax.sum[i];
                }
        }
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(memory.scored[at]);
        if (border && tile + 2 >= tiles) {
            const int next = item + blocks;
            if (next < work.items) load_q(q, work, next, half);
        }
        end(out);
        if (border && tile == 0) {
            if (Results::several && !none) results.store(memory, item - blocks, half, n - 1, out);
        } else {
            release(memory, place_of(n - 1), half);
        }
        if (rises) multiply(out, softmax.factor);
        hold(out);
        wgmma_fence();
        weigh<apart>(out, p, own, !border || tile > 0);
        wgmma_commit();
        if (last) results.tell_rows(softmax, item);
        end(out);
        if (Results::several && border && tile == 0 && !none) release_stored(memory, place_of(n - 1), half);
        if (last) {
            results.store(memory, item, half, n, out);
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
        begin_other(memory, n - 1, false, false, half, softmax, out);
        end(out);
        results.store(memory, item - blocks, half, n - 1, out);
    }
    if (elect_one()) {
        bulk_commit();
        bulk_wait<0>();
    }
}

}  // namespace dsa::latent_tile::in_turn
