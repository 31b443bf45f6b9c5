// Level 10's scores: a token's codes become f16 in registers, times their scale.
#pragma once

#include "optimized/sparse_decode/code_tiles.cuh"

namespace dsa::code_tiles {

// Weighers hear of a tile's p when this many of 20 units of the next tile's q k^T have been issued: p v goes on
// beside the next softmax then, and not beside the products that this softmax waits for.
constexpr int told_after = 19;
constexpr int exponent_of_q = 10;  // q's largest is made 2^10 ... 2^11

// The columns of a step of 16 are so chosen that a lane loads 8 bytes of a token's row at once, and no two lanes of a
// wavefront from one bank: of each 128 bytes lane p has 64 (p / 2) + 8 (p % 2) + 16 v ..., v = 0 ... 3. Of the latent
// these are two steps, of the rotated columns one. Each four numbers of a lane are a step's: its columns 2 p, 2 p +
// 1, 2 p + 8 and 2 p + 9. q is laid out alike.
//
template <int heads>
struct QueryInF16 : QueryRows<heads> {
    using QueryRows<heads>::memory, QueryRows<heads>::count, QueryRows<heads>::staged, QueryRows<heads>::apart;
    static constexpr int pieces = width / 8, latent_pieces = latent / 8, each = pieces / 4;

    // Four lanes have four pieces of 8 columns of a row, which go to four words in a row.
    template <class Use>
    __device__ void walk(Use use) const {
        const int thread = static_cast<int>(threadIdx.x) % warpgroup;
        for (int head = thread / 4; head < heads; head += warpgroup / 4)
#pragma unroll 6
            for (int i = 0; i < each; ++i) {
                const int lane = thread % 4;
                const bool turned = i >= latent_pieces / 4;
                const int piece = turned ? latent_pieces + 4 * (i % 4 % 2) + lane
                                         : i / 4 * 16 + lane / 2 * 8 + i % 4 * 2 + lane % 2;
                const Words eight =
                    head < count ? *reinterpret_cast<const Words*>(staged() + head * apart + piece * 16) : Words{};
                use(eight, head, i, lane);
            }
    }
    // By two powers of two; returns q's.
    __device__ void convert() const {
        mbarrier_wait_in_block(memory.q_full, 0);
        constexpr std::uint32_t infinite = 0x7f80;
        std::uint32_t pair = 0, largest = 0;
        walk([&](const Words& eight, int, int, int) {
#pragma unroll
            for (const std::uint32_t two : eight.at) pair = larger_pair(pair, magnitudes(two));
        });
        largest = max(pair & 0xffffU, pair >> 16);
        if (largest >= infinite) {  // the largest that is a number
            largest = 0;
            walk([&](const Words& eight, int, int, int) {
                for (const std::uint32_t two : eight.at) {
                    const std::uint32_t low = two & 0x7fff, high = two >> 16 & 0x7fff;
                    if (low < infinite) largest = max(largest, low);
                    if (high < infinite) largest = max(largest, high);
                }
            });
        }
        atomicMax(&memory.largest_q, static_cast<int>(largest));
        barrier_sync(of_scorers, warpgroup);
        const float by = power_of_two(exponent_of_q - max((memory.largest_q >> 7) - 127, -100));
        walk([&](const Words& eight, int head, int i, int lane) {
            const bool turned = i >= latent_pieces / 4;
            unsigned char* panel = memory.q[turned ? rotated_panel : i / 4 * 2 + i % 4 / 2] + head * 128;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float low = first_of_pair(eight.at[j]) * by, high = second_of_pair(eight.at[j]) * by;
                // Of the latent piece 2 step + half; of the rotated columns a piece is one step of two lanes.
                const int row_piece = turned ? 2 * lane + j % 2 : i % 2 * 4 + j;
                const int word = turned ? i % 4 % 2 * 2 + j / 2 : lane;
                *reinterpret_cast<std::uint32_t*>(panel + ((row_piece ^ (head & 7)) << 4) + 4 * word) =
                    turned ? to_bf16_pair(low, high) : to_f16_pair(low, high);
            }
        });
        fence_proxy_async_shared();
        warp_arrives(memory.q_taken);
        barrier_sync(of_scorers, warpgroup);
    }
};

template <int heads>
struct ScorerInF16 : Softmax<heads> {
    using Query = QueryInF16<heads>;
    using Softmax<heads>::memory, Softmax<heads>::s, Softmax<heads>::token;
    float to_log2;  // from a product of q and a token, both divided by their powers of two

    // After q has been converted.
    __device__ explicit ScorerInF16(const Query& q) : Softmax<heads>(q.memory) {
        to_log2 = q.scale * log2_e * power_of_two(max((memory.largest_q >> 7) - 127, -100) - exponent_of_q);
    }

    // A token's exponent, and its quarters' factors as pairs of twice the same.
    __device__ static int factors_of(const Four& scales, std::uint32_t (&pairs)[quarters]) {
        const int e = Softmax<heads>::exponent_of(scales);
        const float by = power_of_two(-e);
#pragma unroll
        for (int i = 0; i < quarters; ++i) pairs[i] = to_f16_pair(scales.at[i] * by, scales.at[i] * by);
        return e;
    }

    // counts: of the tile's tokens, a bit each.
    template <class Counts>
    __device__ void score(int tile, const Turn& turn, Counts counts) {
        const unsigned char* stage = memory.ring.tile[turn.at];
        const unsigned char* rows[2] = {stage + token * token_bytes, stage + (token + 8) * token_bytes};
        std::uint32_t factors[2][quarters];  // pairs of twice the same
        int exponent[2];
        mbarrier_wait_in_block(memory.ring.full[turn.at], turn.parity);
        Four scales[2];
#pragma unroll
        for (int o = 0; o < 2; ++o) scales[o] = *reinterpret_cast<const Four*>(rows[o] + scales_at);
        Codes codes[2][2];  // [in turn, token]
        load(codes[0], rows, 0);
#pragma unroll
        for (int o = 0; o < 2; ++o) {
            exponent[o] = factors_of(scales[o], factors[o]);
            std::uint32_t mine_of_quarters = factors[o][0];
#pragma unroll
            for (int i = 1; i < quarters; ++i)
                if (place() == i) mine_of_quarters = factors[o][i];
            memory.factors[turn.at][place()][token + 8 * o] = static_cast<std::uint16_t>(mine_of_quarters);
        }
        multiply(tile, turn, codes, rows, factors, exponent);
        const int buffer = tile % 2;
        mbarrier_wait_in_block(memory.p_empty[buffer], tile / 2 % 2 ^ 1);
        const float by[2] = {to_log2 * power_of_two(exponent[0]), to_log2 * power_of_two(exponent[1])};
        this->weights(tile, buffer, exponent, counts(tile), [&](int i) { return by[i / 2 % 2]; });
    }

    struct alignas(8) Codes {
        std::uint32_t at[2];
    };
    // A unit's, two steps: of both tokens. Of the rotated columns, one step.
    __device__ static void load(Codes (&codes)[2], const unsigned char* const (&rows)[2], int unit) {
        const int lane_at = place() / 2 * 64 + place() % 2 * 8, latents = 2 * rotated_panel;
        const int at = unit < latents ? unit / 4 * scaled + unit % 4 * 16 : rotated_at + (unit - latents) * 16;
#pragma unroll
        for (int o = 0; o < 2; ++o) codes[o] = *reinterpret_cast<const Codes*>(rows[o] + at + lane_at);
    }
    // s = k q^T.
    __device__ void multiply(int tile, const Turn& turn, Codes (&codes)[2][2], const unsigned char* const (&rows)[2],
                             const std::uint32_t (&factors)[2][quarters], const int (&exponent)[2]) {
        std::uint32_t a[2][2][4];  // [in turn, step, register]
        constexpr int latents = 2 * rotated_panel, units = latents + 4;
#pragma unroll
        for (int unit = 0; unit < units; ++unit) {
            const bool turned = unit >= latents;
            if (unit + 1 < units) load(codes[(unit + 1) % 2], rows, unit + 1);
            if (unit == told_after && tile > 0) this->tell(tile - 1);
            if (unit >= 2) wgmma_wait<1>();
            auto& to = a[unit % 2];
#pragma unroll
            for (int o = 0; o < 2; ++o) {
                const auto& from = codes[unit % 2][o].at;
                const std::uint32_t half = static_cast<std::uint32_t>(127 - exponent[o]) << 7;  // 2^-e as bf16
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if (turned) {
                        to[0][2 * i + o] = multiply_pairs(from[i], half | half << 16);
                        continue;
                    }
                    const std::uint32_t by = factors[o][unit / 4 % quarters];
                    to[i][o] = multiply_f16_pairs(f16_pair_of_codes<0>(from[i]), by);
                    to[i][o + 2] = multiply_f16_pairs(f16_pair_of_codes<1>(from[i]), by);
                }
            }
            if (unit == 0) hold(s);
            wgmma_fence();
            if (turned) {
                wgmma<bf16>(s, to[0],
                            advanced(k_major(memory.q[rotated_panel], Swizzle::bytes_128), 32 * (unit - latents)),
                            true);
            } else {
                const Descriptor of_q = advanced(k_major(memory.q[unit / 2], Swizzle::bytes_128), 64 * (unit % 2));
#pragma unroll
                for (int i = 0; i < 2; ++i) wgmma_f16(s, to[i], advanced(of_q, 32 * i), unit + i > 0);
            }
            wgmma_commit();
        }
        warp_arrives(memory.ring.empty[turn.at]);
        wgmma_wait<0>();
        hold(s);
    }
};

}  // namespace dsa::code_tiles
