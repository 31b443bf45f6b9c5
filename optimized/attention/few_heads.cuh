// Attention of at most 32 heads of a query over tiles of 32 selected tokens. wgmma's products, and mma.sync's with
// heads as rows, are 64 or 16 heads at least; here tokens are the rows and heads the columns, 8, 16 or 32 of them:
//
//     s^T = k q^T        [32 tokens, heads]     over 576 columns
//     o^T += v^T p^T     [512 columns, heads]   over 32 tokens
//
// Eight warps compute, four bring rows (row_ring.cuh). Between two barriers each of the eight has three things to do
// that do not wait for each other, so that one's latencies are another's time:
//
//     s^T of tile i + 1      warp w: tokens 16 (w % 2) ..., over 16 columns of each 64, the (w / 2)-th; its part of q
//                            stays in registers
//     the softmax of tile i  a token a lane, heads w, w + 8, ...
//     o^T of tile i - 1      columns 64 w ... 64 w + 63
//
// With 32 heads there are no registers for that, and the softmax has a turn of its own.
#pragma once

#include "optimized/attention/softmax.cuh"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/matrix.h"
#include "optimized/hopper/mma.h"

namespace dsa::few_heads {

constexpr int workers = 8, worker_threads = workers * warp_size;
constexpr int carriers = 4;  // warps that bring rows
constexpr int threads = worker_threads + carriers * warp_size;
// 168 registers a thread of all warps, shared out again: 32 heads need more.
constexpr int worker_registers = 232, carrier_registers = 40;
constexpr int workers_barrier = 1;
constexpr int tokens = 32;
constexpr int latent = 512, rotated = 64, width = latent + rotated;
constexpr int quarters = 4;                   // that share the 576 columns of a score
constexpr int steps = width / 16 / quarters;  // of mma, a quarter
constexpr int columns = latent / workers;     // of o^T, a warp
constexpr int weighing_steps = columns / 16 * (tokens / 16);
constexpr int most_slots = 2048;
constexpr float log2_e = 1.44269504088896340736F, ln_2 = 0.69314718055994530942F;

// What the workers tell each other: of two tiles, in turn.
template <int heads>
struct alignas(16) Exchange {
    static constexpr int p_pitch = 2 * tokens + 16;  // lanes of an access meet no bank twice
    struct OfTile {
        float scores[quarters][heads][tokens];         // sums over a quarter of the columns; see place_of
        alignas(16) unsigned char p[heads * p_pitch];  // [heads, tokens] bf16
        float factor[heads];                           // by which older sums are multiplied
    };
    OfTile of[2];

    // Where a score of a head lies: lanes with four tokens of pairs of heads each meet no bank twice.
    __device__ static int place_of(int head, int token) { return token ^ (head / 2 % 4 * 8); }
};

__device__ inline void workers_meet() { barrier_sync(workers_barrier, worker_threads); }
__device__ inline int group() { return lane_id() / 4; }  // the fragments' g and p, see hopper/mma.h
__device__ inline int place() { return lane_id() % 4; }
__device__ inline int token_group() { return warp_id() % 2; }
__device__ inline int quarter() { return warp_id() / 2; }

// A warp's part of q as B of k q^T: [steps, heads / 8, 2] registers.
template <int heads>
using QueryPart = std::uint32_t[steps][heads / 8][2];

// A warp's part of s^T.
template <int heads>
struct Scores {
    float at[heads / 8][4];
    __device__ void clear() {
#pragma unroll
        for (float(&four)[4] : at) four[0] = four[1] = four[2] = four[3] = 0.0F;
    }
    __device__ void add(const std::uint32_t (&keys)[4], const std::uint32_t (&q)[heads / 8][2]) {
#pragma unroll
        for (int n = 0; n < heads / 8; ++n) mma<bf16>(at[n], keys, q[n]);
    }
    __device__ void tell(typename Exchange<heads>::OfTile& exchange) const {
        const int token = 16 * token_group() + group();
#pragma unroll
        for (int n = 0; n < heads / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int head = 8 * n + 2 * place() + i % 2;
                exchange.scores[quarter()][head][Exchange<heads>::place_of(head, token + i / 2 * 8)] = at[n][i];
            }
    }
};

// Of a warp's heads, in base 2. The reference follows the maximum only when p would grow beyond 2^8: seldom, so that
// the maximum over lanes is seldom asked for. largest and sum are the lane's own until the end.
template <int heads>
struct RunningSoftmax {
    static constexpr int each = heads / workers;
    static constexpr float let_grow = 8.0F;
    float reference[each], largest[each], sum[each];
    float s[each], factor[each];  // of this tile

    __device__ RunningSoftmax() {
#pragma unroll
        for (int i = 0; i < each; ++i) {
            reference[i] = largest[i] = minus_infinity();
            sum[i] = 0.0F;
        }
    }
    // A tile's step, in three parts: its logits, whether they rise too far, its p.
    using OfTile = typename Exchange<heads>::OfTile;
    __device__ void read(const OfTile& exchange, std::uint32_t counts, float to_log2) {
        const int lane = lane_id();
        const bool mine_counts = (counts >> lane & 1) != 0;
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const int head = warp_id() + workers * i, token = Exchange<heads>::place_of(head, lane);
            const auto part = [&](int of) { return exchange.scores[of][head][token]; };
            s[i] = ((part(0) + part(1)) + (part(2) + part(3))) * to_log2;
            if (!mine_counts) s[i] = minus_infinity();
            largest[i] = fmaxf(largest[i], s[i]);
        }
    }
    __device__ void follow() {
        bool rises = false;
#pragma unroll
        for (int i = 0; i < each; ++i) {
            rises = rises || s[i] > reference[i] + let_grow;
            factor[i] = 1.0F;
        }
        if (__any_sync(all_lanes, rises)) raise();
    }
    __device__ void write(OfTile& exchange) {
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const int head = warp_id() + workers * i;
            const float p = exp2_of(s[i] - (reference[i] == minus_infinity() ? 0.0F : reference[i]));
            sum[i] += p;
            reinterpret_cast<bf16*>(exchange.p + head * Exchange<heads>::p_pitch)[lane_id()] = to_bf16(p);
            if (lane_id() == 0) exchange.factor[head] = factor[i];
        }
    }
    __device__ void raise() {
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const float above = over_warp(fmaxf(s[i], minus_infinity()), Largest());  // NaN is no maximum
            if (!(above > reference[i] + let_grow)) continue;
            factor[i] = exp2_of(reference[i] - above);
            reference[i] = above;
            sum[i] *= factor[i];
        }
    }
    // tell(head, reference, largest, sum), natural logits, by one lane a head. Where all logits are NaN there is no
    // maximum; nor is the row empty.
    template <class Tell>
    __device__ void conclude(Tell tell) const {
#pragma unroll
        for (int i = 0; i < each; ++i) {
            const float total = over_warp(sum[i], Sum()), most = over_warp(largest[i], Largest());
            const float under = total != total ? total : reference[i] * ln_2;
            if (lane_id() == 0) tell(warp_id() + workers * i, under, most * ln_2, total);
        }
    }
};

// A warp's part of o^T.
template <int heads>
struct Outputs {
    float at[columns / 16][heads / 8][4];

    __device__ void clear() {
#pragma unroll
        for (auto& tile : at)
#pragma unroll
            for (float(&four)[4] : tile) four[0] = four[1] = four[2] = four[3] = 0.0F;
    }
    // by[head] of this lane's heads, 8 n + 2 p and the next, is even(n), odd(n).
    __device__ void rescale(const typename Exchange<heads>::OfTile& exchange) {
        float factor[heads / 8][2];
        bool rises = false;
#pragma unroll
        for (int n = 0; n < heads / 8; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                factor[n][i] = exchange.factor[8 * n + 2 * place() + i];
                rises = rises || factor[n][i] != 1.0F;
            }
        if (!__any_sync(all_lanes, rises)) return;
#pragma unroll
        for (auto& tile : at)
#pragma unroll
            for (int n = 0; n < heads / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i) tile[n][i] *= factor[n][i % 2];
    }
};

// p^T over 16 tokens as B.
template <int heads>
struct Weights {
    std::uint32_t at[heads / 8][2];
    __device__ void load(const typename Exchange<heads>::OfTile& exchange, int part) {
        const int lane = lane_id();
        const unsigned char* row = exchange.p + lane % 8 * Exchange<heads>::p_pitch + part * 32 + lane / 8 % 2 * 16;
        if constexpr (heads == 8) {
            load_matrices(at[0], row);
        } else {
#pragma unroll
            for (int n = 0; n < heads / 8; n += 2) {
                std::uint32_t four[4];
                load_matrices(four, row + (8 * n + lane / 16 * 8) * Exchange<heads>::p_pitch);
                at[n][0] = four[0], at[n][1] = four[1], at[n + 1][0] = four[2], at[n + 1][1] = four[3];
            }
        }
    }
};

// Where a lane begins to read v^T as A: rows of `pitch` bytes, two matrices of 8 tokens by two of 8 columns.
template <int pitch>
__device__ int value_offset() {
    const int lane = lane_id();
    return (lane / 16 * 8 + lane % 8) * pitch + warp_id() * columns * 2 + lane / 8 % 2 * 16;
}
// One of weighing_steps: 16 tokens, 16 columns. First its part of v^T, then the product.
template <int pitch>
__device__ void load_values(std::uint32_t (&a)[4], const unsigned char* values, int step) {
    constexpr int tiles = columns / 16;
    load_matrices<true>(a, values + step / tiles * 16 * pitch + step % tiles * 32);
}
template <int heads>
__device__ void weigh(Outputs<heads>& out, Weights<heads>& p, const typename Exchange<heads>::OfTile& exchange,
                      const std::uint32_t (&a)[4], int step) {
    constexpr int tiles = columns / 16;
    if (step % tiles == 0) p.load(exchange, step / tiles);
#pragma unroll
    for (int n = 0; n < heads / 8; ++n) mma<bf16>(out.at[step % tiles][n], a, p.at[n]);
}

// The walk over a selection. counts: a bit a token. Tiles says where k and v are:
//   begin()                    of the next tile's scores: its rows are there
//   keys(a, step)              k of one step of them, as A; q[step] is its B
//   scored()                   after the last
//   values()                   of the tile that is weighed; rows Tiles::pitch apart
//   weighed()                  after that
template <int heads, class Tiles>
struct Walk {
    static constexpr int pitch = Tiles::pitch;
    static_assert(weighing_steps + 1 == steps, "they go in pairs");
    Exchange<heads>& exchange;
    Tiles& tiles;
    const std::uint32_t* counts;
    const float to_log2;
    RunningSoftmax<heads>& softmax;
    Outputs<heads>& out;
    const int offset = value_offset<pitch>();

    // All tiles, at least one.
    __device__ void run(int count) {
        out.clear();
        turn<true, false, false>(1);
        if constexpr (!roomy) {
#pragma unroll 1
            for (int tile = 0;; ++tile) {
                turn<false, true, false>(0, tile);
                if (tile + 1 == count) break;
                turn<true, false, true>(1);
            }
            turn<false, false, true>(1);
            return;
        }
        if (count > 1) {
            turn<true, true, false>(0, 0);
#pragma unroll 1
            for (int tile = 1; tile + 1 < count; ++tile) turn<true, true, true>(tile & 1, tile);
            turn<false, true, true>((count - 1) & 1, count - 1);
        } else {
            turn<false, true, false>(0, 0);
        }
        turn<false, false, true>(count & 1);
    }

   private:
    // 32 heads leave no registers for three things at once: the softmax goes alone then, and operands come just in
    // time.
    static constexpr bool roomy = heads <= 16;

    // What lies between two barriers: the softmax of `tile`, scores of the next, sums of the one before. `at`: which
    // of the exchange's two is the tile's; the other two share the other.
    template <bool scores_next, bool softens, bool weighs>
    __device__ void turn(int at, int tile = 0) {
        auto& now = exchange.of[at];
        auto& other = exchange.of[at ^ 1];
        Scores<heads> scores;
        Weights<heads> p;
        const unsigned char* values = weighs ? tiles.values() + offset : nullptr;
        if (scores_next) {
            tiles.begin();
            scores.clear();
        }
        if (softens) softmax.read(now, counts[tile], to_log2);
        constexpr int ahead = roomy ? 1 : 0;  // steps by which operands are asked for before they are multiplied
        std::uint32_t keys[2][4], columns_of_v[2][4];
        if (scores_next && ahead > 0) tiles.keys(keys[0], 0);
        const auto go = [&](int from, int to) {
#pragma unroll
            for (int step = from; step < to; ++step) {
                if (scores_next && step + ahead < steps) tiles.keys(keys[(step + ahead) % 2], step + ahead);
                if (weighs && step + ahead > 0 && step + ahead <= weighing_steps)
                    load_values<pitch>(columns_of_v[(step + ahead) % 2], values, step + ahead - 1);
                if (scores_next) scores.add(keys[step % 2], tiles.q[step]);
                if (weighs && step > 0) weigh(out, p, other, columns_of_v[step % 2], step - 1);
            }
        };
        if (weighs) out.rescale(other);
        go(0, steps / 2);
        if (softens) softmax.follow();
        go(steps / 2, steps);
        if (softens) softmax.write(now);
        if (scores_next) tiles.scored();
        if (weighs) tiles.weighed();
        if (scores_next) scores.tell(other);
        workers_meet();
    }
};

struct alignas(16) Piece {
    std::uint32_t at[4];
};

// o^T times one_over, as rows of bf16 to global memory, by way of the scores' place, of which each warp has a part.
// Between workers_meet() before and after. to: of the query's first head. as: what becomes of 8 numbers of a row.
template <int heads, class As>
__device__ void store_rows(Exchange<heads>& exchange, const float (&one_over)[heads], const Outputs<heads>& out,
                           int count, bf16* to, As as) {
    constexpr int half = columns / 2, bytes = heads * half * 2;
    static_assert(workers * bytes <= static_cast<int>(sizeof exchange.of[0].scores), "each warp has its part");
    const int lane = lane_id();
    unsigned char* staged = reinterpret_cast<unsigned char*>(exchange.of[0].scores) + warp_id() * bytes;
    float by[heads / 8][2];
#pragma unroll
    for (int n = 0; n < heads / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) by[n][i] = one_over[8 * n + 2 * place() + i];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        __syncwarp();
#pragma unroll
        for (int n = 0; n < heads / 8; ++n) {
            std::uint32_t four[4];  // heads 2 p, 2 p + 1 of 8 columns each
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float(&of)[4] = out.at[2 * h + i / 2][n];
                four[i] = to_bf16_pair(of[i % 2 * 2] * by[n][0], of[i % 2 * 2 + 1] * by[n][1]);
            }
            store_matrices<true>(four, staged + (8 * n + lane % 8) * half * 2 + lane / 8 * 16);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < heads / 8; ++i) {
            const int head = 8 * i + lane / 4, piece = lane % 4;
            const Piece eight = *reinterpret_cast<const Piece*>(staged + head * half * 2 + piece * 16);
            if (head < count)
                *reinterpret_cast<Piece*>(to + std::int64_t{head} * latent + warp_id() * columns + h * half +
                                          piece * 8) = as(eight);
        }
    }
}

// The same undivided, in float32, as the sums lie.
template <int heads>
__device__ void store_sums(const Outputs<heads>& out, int count, float* to) {
#pragma unroll
    for (int m = 0; m < columns / 16; ++m)
#pragma unroll
        for (int n = 0; n < heads / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int head = 8 * n + 2 * place() + i % 2;
                if (head < count)
                    to[std::int64_t{head} * latent + warp_id() * columns + 16 * m + group() + i / 2 * 8] =
                        out.at[m][n][i];
            }
}

}  // namespace dsa::few_heads
