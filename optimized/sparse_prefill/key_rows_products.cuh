// Level 8's two products and what is between them: who scores, and who weighs (key_rows.cuh).
#pragma once

#include "optimized/hopper/barrier_any.h"
#include "optimized/sparse_prefill/key_rows.cuh"

namespace dsa::key_rows {

__device__ inline int group() { return lane_id() / 4; }  // the fragments' g and p, see hopper/wgmma.h
__device__ inline int pair() { return lane_id() % 4; }

struct alignas(8) Two {
    float at[2];
};

// ---- who scores ----

// What a thread holds of a product's sums, two columns of two rows for each 8 columns, transposed to shared memory:
// [heads, 64], swizzled. pairs[2 j + o]: row 16 w + g + 8 o, heads 8 j + 2 p, 8 j + 2 p + 1.
template <int heads>
__device__ void store_transposed(const std::uint32_t (&pairs)[heads / 4], unsigned char* to) {
    const int lane = lane_id(), place = 2 * (warp_id() % 4) + lane / 8 % 2;
    unsigned char* at = to + lane % 8 * row_bytes + ((place ^ (lane % 8)) << 4);
    if constexpr (heads == 8) {
        store_matrices<true>(pairs, at);
    } else {
#pragma unroll
        for (int j = 0; j < heads / 8; j += 2) {
            const std::uint32_t four[4] = {pairs[2 * j], pairs[2 * j + 1], pairs[2 * j + 2], pairs[2 * j + 3]};
            store_matrices<true>(four, at + (8 * j + lane / 16 * 8) * row_bytes);
        }
    }
}

// A thread has keys 16 w + g and 8 more of a tile, and heads 8 j + 2 p + b. p is 2^(to_log2 s - below).
template <class M>
struct Scorer {
    static constexpr int heads = M::heads, mine = heads / 4;
    M& memory;
    const float to_log2;
    float s[heads / 2];
    float limit[mine], below[mine];  // s beyond the limit moves the reference; this, as an exponent of 2
    float largest[mine], sum[mine];  // of this thread's keys
    Turn<M::places> turn;
    const int warp = warp_id() % 4;

    __device__ Scorer(M& of, float scale) : memory(of), to_log2(scale * log2_e) {}
    __device__ static int head_of(int i) { return i / 2 * 8 + 2 * pair() + i % 2; }

    __device__ void begin() {
#pragma unroll
        for (int i = 0; i < mine; ++i) {
            limit[i] = largest[i] = minus_infinity();
            below[i] = sum[i] = 0.0F;
        }
    }

    // s^T = k q^T. Returns p's place.
    __device__ unsigned char* multiply(const typename M::HeadRows (&of_q)[panels]) {
        const Descriptor q = k_major(of_q, wide);
        int place[pieces], parity = 0;
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece, turn.next()) {
            place[piece] = turn.uniform();
            parity = turn.parity;
        }
        // Who says that the last piece is there says it of all that it asked for before.
        mbarrier_wait_in_block(memory.full[place[pieces - 1]], parity);
        fence_proxy_async_shared();  // cp.async writes as threads do
        hold(s);
        wgmma_fence();
#pragma unroll
        for (int panel = 0; panel < panels; ++panel) {
            const Descriptor k = k_major(memory.piece[place[panel / panels_each]].at, wide);
#pragma unroll
            for (int step = 0; step < steps; ++step)
                wgmma<bf16>(s, advanced(k, panel % panels_each * panel_bytes + step * 32),
                            advanced(q, panel * heads * row_bytes + step * 32), panel + step > 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        hold(s);
        return memory.piece[place[pieces - 1]].p();
    }

    // s becomes p, in shared memory. n: the tile's number, over all items. counts: a bit a key, of the 32 among which
    // this warp's are.
    __device__ void soften(unsigned n, std::uint32_t counts, unsigned char* to) {
        if (counts != 0xffffffffU) {
            counts >>= warp % 2 * 16 + group();
#pragma unroll
            for (int i = 0; i < heads / 2; ++i)
                if ((counts & (i % 4 < 2 ? 1U : 256U)) == 0) s[i] = minus_infinity();
        }
        bool beyond = false;
#pragma unroll
        for (int i = 0; i < mine; ++i) {
            const int first = i / 2 * 4 + i % 2;
            largest[i] = fmaxf(largest[i], fmaxf(s[first], s[first + 2]));
            beyond = beyond || largest[i] > limit[i];
        }
        // When all have come here, their products have read what p is stored over.
        if (barrier_any(of_scorers, warpgroup, beyond)) raise(n);
        std::uint32_t pairs[heads / 4];
#pragma unroll
        for (int i = 0; i < heads / 2; i += 2) {
            float p[2];
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const int head = i / 4 * 2 + b;
                p[b] = exp2_of(s[i + b] * to_log2 - below[head]);
                sum[head] += p[b];
            }
            pairs[i / 2] = to_bf16_pair(p[0], p[1]);
        }
        store_transposed<heads>(pairs, to);
        warp_arrives(memory.p_full[n % 2]);
    }

    // A fold of each head over this warp's keys goes to memory.of_warp[to].
    template <class Fold>
    __device__ void fold_over_keys(int to, const float (&of)[mine], Fold fold) {
#pragma unroll
        for (int i = 0; i < mine; ++i) {
            float x = of[i];
#pragma unroll
            for (int flip = 4; flip < warp_size; flip *= 2) x = fold(x, __shfl_xor_sync(all_lanes, x, flip));
            if (group() == 0) memory.of_warp[to][warp][head_of(i)] = x;
        }
    }
    // The reference of those heads whose maximum is beyond it follows. Seldom.
    __device__ void raise(unsigned n) {
        fold_over_keys(0, largest, [](float a, float b) { return fmaxf(a, b); });
        barrier_sync(of_scorers, warpgroup);
#pragma unroll
        for (int i = 0; i < mine; ++i) {
            const int head = head_of(i);
            float all = memory.of_warp[0][0][head];
#pragma unroll
            for (int w = 1; w < 4; ++w) all = fmaxf(all, memory.of_warp[0][w][head]);
            float factor = 1.0F;
            if (all > limit[i]) {
                const float before = limit[i] == minus_infinity() ? minus_infinity() : below[i];
                below[i] = all * to_log2;
                limit[i] = all + let_grow / to_log2;
                factor = exp2_of(before - below[i]);
                sum[i] *= factor;
            }
            if (warp == 0 && group() == 0) memory.rescaling[n % 2][head] = factor;
        }
        if (warp == 0 && lane_id() == 0) memory.rescaled[n % 2] = n + 1;
    }

    // conclude(head, reference, largest, sum), natural logits: a thread a head.
    template <class Conclude>
    __device__ void finish(Conclude conclude) {
        barrier_sync(of_scorers, warpgroup);  // what was folded before has been read
        fold_over_keys(0, largest, [](float a, float b) { return fmaxf(a, b); });
        fold_over_keys(1, sum, [](float a, float b) { return a + b; });
        if (warp == 0 && group() == 0)
#pragma unroll
            for (int i = 0; i < mine; ++i)
                memory.reference[head_of(i)] = limit[i] == minus_infinity() ? limit[i] : below[i];
        barrier_sync(of_scorers, warpgroup);
        const int head = static_cast<int>(threadIdx.x) % warpgroup;
        if (head >= heads) return;
        float most = minus_infinity(), all = 0.0F;
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            most = fmaxf(most, memory.of_warp[0][w][head]);
            all += memory.of_warp[1][w][head];
        }
        // Where all logits are NaN there is no maximum; nor is the row empty.
        const float under = memory.reference[head];
        conclude(head, all != all ? all : under * ln_2, most * (to_log2 * ln_2), all);
    }
};

template <class M>
__device__ void score(M& memory, const Queries& queries) {
    const AttentionResult& result = queries.result;
    const int tiles = queries.tiles();
    Scorer<M> scorer(memory, result.scale);
    unsigned n = 0;
    int round = 0;
    for (int t = static_cast<int>(blockIdx.x); t < queries.T; t = queries.next(t), ++round) {
        const std::uint32_t(&counts)[most_slots / 32] = memory.counts[round % 2];
        scorer.begin();
        mbarrier_wait_in_block(memory.counts_full[round % 2], round / 2 % 2);
        constexpr int q_places = M::q_places;
        const int q_place = __shfl_sync(all_lanes, round % q_places, 0);  // uniform, sees ptxas
        mbarrier_wait_in_block(memory.q_full[q_place], round / q_places % 2);
        for (int tile = 0; tile < tiles; ++tile, ++n) {
            const std::uint32_t of_tile = counts[tile * 2 + scorer.warp / 2];
            unsigned char* p = scorer.multiply(memory.q[q_place]);
            if (tile + 1 == tiles) warp_arrives(memory.q_empty[q_place]);
            scorer.soften(n, of_tile, p);
        }
        warp_arrives(memory.counts_empty[round % 2]);
        scorer.finish([&](int head, float reference, float largest, float sum) {
            const bool empty = reference == minus_infinity();
            memory.one_over[round % 2][head] =
                empty ? 0.0F : 1.0F / denominator(result, min(head, queries.H - 1), reference, sum);
            if (head >= queries.H) return;
            const std::int64_t at = std::int64_t{t} * queries.H + head;
            result.lse[at] = told_lse(result, reference, sum);
            if (result.max_logit != nullptr) result.max_logit[at] = largest;
        });
        if (scorer.warp == 0) warp_arrives(memory.concluded[round % 2]);
    }
}

// ---- who weighs ----

template <class M>
struct Weigher {
    static constexpr int heads = M::heads;
    M& memory;
    float out[value_panels][heads / 2];  // 64 columns each
    Turn<M::places> turn;
    int places[pieces];  // of the last tile
    const bool first_warp = __shfl_sync(all_lanes, warp_id() % 4, 0) == 0;

    __device__ explicit Weigher(M& of) : memory(of) {}
    __device__ void hold_all() {
#pragma unroll
        for (auto& panel : out) hold(panel);
    }
    // by: of the heads of this thread.
    __device__ void multiply(const float* by) {
#pragma unroll
        for (int j = 0; j < heads / 8; ++j) {
            const Two two = *reinterpret_cast<const Two*>(by + 8 * j + 2 * pair());
#pragma unroll
            for (auto& panel : out)
#pragma unroll
                for (int i = 0; i < 4; ++i) panel[4 * j + i] *= two.at[i % 2];
        }
    }
    // Tile n, over all items. first: there are no sums yet. last: the tile is kept.
    __device__ void weigh(unsigned n, bool first, bool last) {
        constexpr Form values{.a_is_mn_major = true};
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece, turn.next()) places[piece] = turn.uniform();
        mbarrier_wait_in_block(memory.p_full[n % 2], static_cast<int>(n / 2 % 2));
        fence_proxy_async_shared();  // of rows, and of p
        if (!first && memory.rescaled[n % 2] == n + 1) multiply(memory.rescaling[n % 2]);
        const Descriptor p = k_major(memory.piece[places[pieces - 1]].p(), wide);
        hold_all();
        wgmma_fence();
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece) {
            const Descriptor v = mn_major(memory.piece[places[piece]].at, panel_bytes, wide);
#pragma unroll
            for (int step = 0; step < keys / 16; ++step)
#pragma unroll
                for (int panel = 0; panel < panels_each; ++panel)
                    if (piece * panels_each + panel < value_panels)
                        wgmma<bf16, values>(out[piece * panels_each + panel],
                                            advanced(v, panel * panel_bytes + step * 16 * row_bytes),
                                            advanced(p, step * 32), !first || step > 0);
            wgmma_commit();
        }
        wgmma_wait<2>();
        if (!last) warp_arrives(memory.empty[places[0]]);
        wgmma_wait<1>();
        if (!last) warp_arrives(memory.empty[places[1]]);
        wgmma_wait<0>();
        hold_all();
        if (!last) warp_arrives(memory.empty[places[2]]);
    }
    // To global memory, through the last tile's place. round: the item's number.
    __device__ void store(int round, int t, const TensorMap& to) {
        mbarrier_wait_in_block(memory.concluded[round % 2], round / 2 % 2);
        multiply(memory.one_over[round % 2]);
        barrier_sync(of_weighers, warpgroup);  // everybody has weighed
        const auto panel_at = [&](int i) { return memory.piece[places[i / panels_each]].panel(i % panels_each); };
#pragma unroll
        for (int i = 0; i < value_panels; ++i) {
            std::uint32_t pairs[heads / 4];
#pragma unroll
            for (int j = 0; j < heads / 4; ++j) pairs[j] = to_bf16_pair(out[i][2 * j], out[i][2 * j + 1]);
            store_transposed<heads>(pairs, panel_at(i));
        }
        fence_proxy_async_shared();
        barrier_sync(of_weighers, warpgroup);
        if (!first_warp || !elect_one()) return;
#pragma unroll
        for (int i = 0; i < value_panels; ++i) tma_store(to, {i * panel_columns, 0, t}, panel_at(i));
        bulk_commit();
        bulk_wait_read<0>();
        for (const int place : places) mbarrier_arrive(memory.empty[place], 4);
    }
};

template <class M>
__device__ void weigh(M& memory, const Queries& queries, const TensorMap& out) {
    const int tiles = queries.tiles();
    Weigher<M> weigher(memory);
    unsigned n = 0;
    int round = 0;
    for (int t = static_cast<int>(blockIdx.x); t < queries.T; t = queries.next(t), ++round) {
        for (int tile = 0; tile < tiles; ++tile, ++n) weigher.weigh(n, tile == 0, tile + 1 == tiles);
        weigher.store(round, t, out);
    }
    if (weigher.first_warp && elect_one()) bulk_wait<0>();
}

}  // namespace dsa::key_rows
