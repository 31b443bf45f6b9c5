// Level 11's scores: codes are multiplied as they are. A number of bf16 has 8 significant bits and one of e4m3 has 4,
// so q is the sum of two of e4m3, `high` and `low`, and k q^T two products of half the time each. Scales come after
// them, a multiply-add a quarter in float32:
//
//     s[token, head] = rotated k q^T + sum over quarters of scale[token, quarter] (codes low^T + codes high^T)
//
// The tensor cores keep some 14 bits of a sum of FP8 products, counted from the largest that comes to it. So the low
// products, 2^-4 of the others, come first (notes.md).
#pragma once

#include "optimized/sparse_decode/code_tiles.cuh"

namespace dsa::code_tiles {

// Columns are so ordered that a lane loads 16 bytes of a token's row at once, from other banks than its neighbours:
// of each panel, 128 bytes, lane p has words 8 p ... 8 p + 7, and of these step s = 0 ... 3 has 2 s and 2 s + 1: the
// fragment's k = 4 p ... and k = 16 + 4 p ... . So word 8 p + i of a row goes to piece i, word p.
constexpr int high_panel = 0, low_panel = quarters;  // four each; then the rotated columns
constexpr int exponent_of_high = 7;                  // q's largest is made 2^7 ... 2^8, a head at a time

template <int heads>
struct QueryInTwo : QueryRows<heads> {
    using QueryRows<heads>::memory, QueryRows<heads>::count, QueryRows<heads>::scale;
    using QueryRows<heads>::staged, QueryRows<heads>::apart;

    // Four lanes have a head, a fourth of each panel's words each.
    __device__ void convert() const {
        mbarrier_wait_in_block(memory.q_full, 0);
        const int thread = static_cast<int>(threadIdx.x) % warpgroup, lane = thread % 4;
        for (int head = thread / 4; head < heads; head += warpgroup / 4) {
            const unsigned char* row = staged() + head * apart;
            const auto eight = [&](int column) {
                return head < count ? *reinterpret_cast<const Words*>(row + 2 * column) : Words{};
            };
            const auto each_of_latent = [&](auto use) {
#pragma unroll 1
                for (int quarter = 0; quarter < quarters; ++quarter)
#pragma unroll
                    for (int i = 0; i < 4; ++i) use(eight(quarter * scaled + lane * scaled / 4 + 8 * i), quarter, i);
            };
            std::uint32_t pair = 0;
            each_of_latent([&](const Words& numbers, int, int) {
#pragma unroll
                for (const std::uint32_t two : numbers.at) pair = larger_pair(pair, magnitudes(two));
            });
            std::uint32_t largest = max(pair & 0xffffU, pair >> 16);
#pragma unroll
            for (int flip = 1; flip < 4; flip *= 2) largest = max(largest, __shfl_xor_sync(all_lanes, largest, flip));
            // 60: rotated columns shall not grow without bound.
            const int e = max(-60, min(127, static_cast<int>(largest >> 7) - 127)) - exponent_of_high;
            const float by = power_of_two(-e);
            if (lane == 0) memory.of_q[head] = power_of_two(e) * (scale * log2_e);
            const auto at = [&](int panel, int piece) {
                return reinterpret_cast<std::uint32_t*>(memory.q[panel] + head * 128 + ((piece ^ (head & 7)) << 4) +
                                                        4 * lane);
            };
            each_of_latent([&](const Words& numbers, int quarter, int i) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float x[4], high[4];
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        const std::uint32_t two = numbers.at[2 * half + j / 2];
                        x[j] = (j % 2 == 0 ? first_of_pair(two) : second_of_pair(two)) * by;
                        high[j] = to_four_bits(x[j]);
                    }
                    *at(high_panel + quarter, 2 * i + half) = to_e4m3_four(high[0], high[1], high[2], high[3]);
                    *at(low_panel + quarter, 2 * i + half) =
                        to_e4m3_four(x[0] - high[0], x[1] - high[1], x[2] - high[2], x[3] - high[3]);
                }
            });
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const Words numbers = eight(latent + lane * rotated / 4 + 8 * i);
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    *at(rotated_panel, 4 * i + j) =
                        to_bf16_pair(first_of_pair(numbers.at[j]) * by, second_of_pair(numbers.at[j]) * by);
            }
        }
        fence_proxy_async_shared();
        warp_arrives(memory.q_taken);
        barrier_sync(of_scorers, warpgroup);
    }
    // To nearest; what is left has four bits too. Of infinity it is no number.
    __device__ static float to_four_bits(float x) {
        return __uint_as_float((__float_as_uint(x) + (1U << 19)) & ~((1U << 20) - 1));
    }
};

template <int heads>
struct CodeScorer : Softmax<heads> {
    using Query = QueryInTwo<heads>;
    using Softmax<heads>::memory, Softmax<heads>::s, Softmax<heads>::token, Softmax<heads>::mine;
    static constexpr int steps = 4;  // of a panel

    __device__ explicit CodeScorer(const Query& q) : Softmax<heads>(q.memory) {}

    // counts: of the tile's tokens, a bit each.
    template <class Counts>
    __device__ void score(int tile, const Turn& turn, Counts counts) {
        const unsigned char* stage = memory.ring.tile[turn.at];
        const unsigned char* rows[2] = {stage + token * token_bytes, stage + (token + 8) * token_bytes};
        int exponent[2];
        mbarrier_wait_in_block(memory.ring.full[turn.at], turn.parity);
#pragma unroll
        for (int o = 0; o < 2; ++o) {
            const Four scales = *reinterpret_cast<const Four*>(rows[o] + scales_at);
            exponent[o] = Softmax<heads>::exponent_of(scales);
            float own = scales.at[0];
#pragma unroll
            for (int i = 1; i < quarters; ++i)
                if (place() == i) own = scales.at[i];
            memory.factors[turn.at][place()][token + 8 * o] =
                static_cast<std::uint16_t>(to_f16_pair(own * power_of_two(-exponent[o]), 0.0F));
        }
        multiply(tile, turn, rows);
        const int buffer = tile % 2;
        mbarrier_wait_in_block(memory.p_empty[buffer], tile / 2 % 2 ^ 1);
        float by[mine];
#pragma unroll
        for (int i = 0; i < mine; i += 2) {
            const Two two = *reinterpret_cast<const Two*>(&memory.of_q[Softmax<heads>::head_of(i)]);
            by[i] = two.at[0];
            by[i + 1] = two.at[1];
        }
        this->weights(tile, buffer, exponent, counts(tile), [&](int i) { return by[i / 4 * 2 + i % 2]; });
    }

    // A panel of both tokens: a step's registers.
    using Panel = std::uint32_t[steps][4];
    __device__ static void load(Panel& a, const unsigned char* const (&rows)[2], int at) {
#pragma unroll
        for (int o = 0; o < 2; ++o)
#pragma unroll
            for (int v = 0; v < 2; ++v) {
                const Words words = *reinterpret_cast<const Words*>(rows[o] + at + 32 * place() + 16 * v);
#pragma unroll
                for (int i = 0; i < 4; ++i) a[2 * v + i / 2][i % 2 * 2 + o] = words.at[i];
            }
    }
    // s = k q^T.
    __device__ void multiply(int tile, const Turn& turn, const unsigned char* const (&rows)[2]) {
        Panel a;  // two would not leave enough registers, and ptxas would make all products wait (C7512)
        float x[heads / 2];
        load(a, rows, rotated_at);
        hold(s);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < steps; ++step)
            wgmma<bf16>(s, a[step], advanced(k_major(memory.q[rotated_panel], Swizzle::bytes_128), 32 * step),
                        step > 0);
        wgmma_commit();
        wgmma_wait<0>();
        hold(s);
        load(a, rows, 0);
#pragma unroll
        for (int quarter = 0; quarter < quarters; ++quarter) {
            hold(x);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 2 * steps; ++i) {
                const int panel = (i < steps ? low_panel : high_panel) + quarter;
                wgmma<e4m3>(x, a[i % steps], advanced(k_major(memory.q[panel], Swizzle::bytes_128), 32 * (i % steps)),
                            i > 0);
            }
            wgmma_commit();
            float scale[2];
#pragma unroll
            for (int o = 0; o < 2; ++o) scale[o] = *reinterpret_cast<const float*>(rows[o] + scales_at + 4 * quarter);
            if (quarter + 1 == quarters) {
                // Weighers hear of a tile's p only now: p v goes on beside the next softmax.
                if (tile > 0) this->tell(tile - 1);
                warp_arrives(memory.ring.empty[turn.at]);
            }
            wgmma_wait<0>();
            hold(x);
            if (quarter + 1 < quarters) load(a, rows, (quarter + 1) * scaled);
#pragma unroll
            for (int i = 0; i < heads / 2; ++i) s[i] += scale[i / 2 % 2] * x[i];
        }
    }
};

}  // namespace dsa::code_tiles
