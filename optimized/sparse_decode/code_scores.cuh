// Level 11's division of work: scorers make scores and nothing else, another warpgroup the softmax.
//
//     y = log2 p + e          [64 tokens, heads] in float32, by way of shared memory
//
// Who weighs brings the tokens, into the place of the tile that it has weighed.
#pragma once

#include "optimized/sparse_decode/code_tiles.cuh"

namespace dsa::code_tiles {

constexpr int registers_of[3] = {184, 88, 56};
template <int heads>
constexpr int softening_warps = heads / 8 < 4 ? heads / 8 : 4;
constexpr int scores_pitch = tokens + 4;  // 8 heads' 16 bytes, or 4 pairs of heads by 8 tokens, lie in 32 banks

template <int heads>
struct ScoresMemory {
    alignas(1024) unsigned char q[panels][heads * 128];
    union {
        struct {
            alignas(1024) unsigned char p[heads * 128];      // [heads, tokens]
            alignas(16) float scores[heads * scores_pitch];  // [heads, tokens]
        } of_tile;
        typename Selection::Table table;  // before the first tile's scores
    };
    Ring ring;
    alignas(8) std::uint16_t factors[stages][quarters][tokens];  // scale / 2^e, f16
    Selection selection;
    alignas(16) float back[tokens];     // 2^-e, of the scores' tokens
    alignas(8) float rescaling[heads];  // by which older sums are multiplied,
    int rescaled;                       // where this is the tile's number + 1
    alignas(8) float one_over[heads];
    int largest_q;  // magnitude, as bits of bf16
    Mbarrier q_full, q_taken, counts_known, scores_full, scores_empty, p_full, p_empty;
};

template <int heads>
__device__ void init_barriers(ScoresMemory<heads>& memory) {
    for (int i = 0; i < stages; ++i) {
        mbarrier_init(memory.ring.full[i], 4 * weighing);
        mbarrier_init(memory.ring.empty[i], 4 * (1 + weighing));
    }
    mbarrier_init(memory.scores_full, 4);
    mbarrier_init(memory.p_full, softening_warps<heads>);
    mbarrier_init(memory.scores_empty, softening_warps<heads>);
    mbarrier_init(memory.p_empty, 4 * weighing);
    memory.rescaled = 0;
    memory.largest_q = 0;
    mbarrier_init(memory.counts_known, 4 * weighing);
    mbarrier_init(memory.q_full, 1);
    mbarrier_init(memory.q_taken, 4);
    fence_mbarrier_init();
}

template <int heads>
struct TileScorer {
    using Common = Scorer<heads>;
    using Codes = typename Common::Codes;
    static constexpr int sets = 2;  // of fragments: one is made while products of the others go on
    static constexpr int latents = 2 * rotated_panel, units = latents + 4;
    ScoresMemory<heads>& memory;
    float s[heads / 2];  // [j, token g or g + 8, b]
    float to_log2;       // from a product of q and a token, both divided by their powers of two
    const int warp = warp_id() % 4;
    const int token = 16 * warp + group();  // and token + 8
    Codes codes[2][2];                      // [in turn, token]
    std::uint32_t factors[2][quarters];     // pairs of twice the same
    int exponent[2];
    const unsigned char* rows[2];

    __device__ TileScorer(ScoresMemory<heads>& of, float scale) : memory(of) {
        to_log2 = scale * log2_e * power_of_two(max((memory.largest_q >> 7) - 127, -100) - exponent_of_q);
    }

    template <class Counts>
    __device__ void run(int tiles, Counts counts) {
        Turn turn;
        mbarrier_wait_in_block(memory.ring.full[turn.at], turn.parity);
        begin(turn);
        for (int tile = 0; tile < tiles; ++tile) {
            multiply(turn);
            float by[2], start[2], back[2];
            const std::uint64_t counting = counts(tile);
#pragma unroll
            for (int o = 0; o < 2; ++o) {
                by[o] = to_log2 * power_of_two(exponent[o]);
                start[o] =
                    (counting >> (token + 8 * o) & 1) != 0 ? static_cast<float>(exponent[o]) : minus_infinity();
                back[o] = power_of_two(-exponent[o]);
            }
            const bool more = tile + 1 < tiles;
            turn.next();
            const bool early = more && there(turn);
            if (early) begin(turn);
            wgmma_wait<0>();
            hold(s);
            mbarrier_wait_in_block(memory.scores_empty, tile % 2 ^ 1);
#pragma unroll
            for (int o = 0; o < 2; ++o) {
                float* to = memory.of_tile.scores + 2 * place() * scores_pitch + token + 8 * o;
#pragma unroll
                for (int j = 0; j < heads / 8; ++j)
#pragma unroll
                    for (int b = 0; b < 2; ++b)
                        to[(8 * j + b) * scores_pitch] = s[4 * j + 2 * o + b] * by[o] + start[o];
                if (place() == 0) memory.back[token + 8 * o] = back[o];
            }
            warp_arrives(memory.scores_full);
            if (more && !early) {
                mbarrier_wait_in_block(memory.ring.full[turn.at], turn.parity);
                begin(turn);
            }
        }
    }

    __device__ bool there(const Turn& turn) const {
        return __all_sync(all_lanes, mbarrier_test(memory.ring.full[turn.at], turn.parity));
    }
    // What the first products of a tile need; it is there.
    __device__ void begin(const Turn& turn) {
        const unsigned char* stage = memory.ring.tile[turn.at];
        rows[0] = stage + token * token_bytes;
        rows[1] = stage + (token + 8) * token_bytes;
        Four scales[2];
#pragma unroll
        for (int o = 0; o < 2; ++o) scales[o] = *reinterpret_cast<const Four*>(rows[o] + scales_at);
        Common::load(codes[0], rows, 0);
#pragma unroll
        for (int o = 0; o < 2; ++o) {
            exponent[o] = Common::factors_of(scales[o], factors[o]);
            std::uint32_t mine_of_quarters = factors[o][0];
#pragma unroll
            for (int i = 1; i < quarters; ++i)
                if (place() == i) mine_of_quarters = factors[o][i];
            memory.factors[turn.at][place()][token + 8 * o] = static_cast<std::uint16_t>(mine_of_quarters);
        }
    }
    // s = k q^T.
    __device__ void multiply(const Turn& turn) {
        std::uint32_t a[sets][2][4];  // [in turn, step, register]
        hold(s);
#pragma unroll
        for (int unit = 0; unit < units; ++unit) {
            const bool turned = unit >= latents;
            if (unit + 1 < units) Common::load(codes[(unit + 1) % 2], rows, unit + 1);
            if (unit >= sets) wgmma_wait<sets - 1>();
            auto& to = a[unit % sets];
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
    }
};

// A thread of those that bring tokens: 16 tokens of a head, or of two. A warp has 8 heads at once.
template <int heads>
struct Softmax {
    static constexpr int each = tokens / 4, rounds = heads > 32 ? 2 : 1;
    ScoresMemory<heads>& memory;
    const int warp = warp_id() % 4;
    const int head = 8 * warp + lane_id() % 8, part = lane_id() / 8;  // and head + 32
    float reference[rounds], sum[rounds];

    __device__ explicit Softmax(ScoresMemory<heads>& of) : memory(of) {
#pragma unroll
        for (int r = 0; r < rounds; ++r) {
            reference[r] = nothing;
            sum[r] = 0.0F;
        }
    }

    __device__ static float largest(float a, float b, float c, float d) { return fmaxf(fmaxf(a, b), fmaxf(c, d)); }

    __device__ void make(int tile) {
        if (warp >= heads / 8) return;
        mbarrier_wait_in_block(memory.scores_full, tile % 2);
        std::uint32_t pairs[rounds][each / 2];  // w
        float rescaling[rounds];
        bool risen = false;
#pragma unroll
        for (int r = 0; r < rounds; ++r) {
            Four y[each / 4];
            const float* scores = memory.of_tile.scores + (head + 32 * r) * scores_pitch + part * each;
#pragma unroll
            for (int i = 0; i < each / 4; ++i) y[i] = *reinterpret_cast<const Four*>(scores + 4 * i);
            float of_four[each / 4];
#pragma unroll
            for (int i = 0; i < each / 4; ++i) of_four[i] = largest(y[i].at[0], y[i].at[1], y[i].at[2], y[i].at[3]);
            float most = largest(of_four[0], of_four[1], of_four[2], of_four[3]);
            rescaling[r] = 1.0F;
            if (__any_sync(all_lanes, most > reference[r] + let_grow)) {
                risen = true;
                most = fmaxf(most, __shfl_xor_sync(all_lanes, most, 8));
                most = fmaxf(most, __shfl_xor_sync(all_lanes, most, 16));
                if (most > reference[r] + let_grow) {
                    rescaling[r] = exp2_of(reference[r] - most);
                    reference[r] = most;
                    sum[r] *= rescaling[r];
                }
            }
            float sums[2] = {};
#pragma unroll
            for (int i = 0; i < each / 4; ++i) {
                const Four back = *reinterpret_cast<const Four*>(memory.back + part * each + 4 * i);
                float w[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    w[j] = exp2_of(y[i].at[j] - reference[r]);
                    sums[j % 2] += w[j] * back.at[j];
                }
                pairs[r][2 * i] = to_f16_pair(w[0], w[1]);
                pairs[r][2 * i + 1] = to_f16_pair(w[2], w[3]);
            }
            sum[r] += sums[0] + sums[1];
            __syncwarp();  // one after the other: registers are few
        }
        warp_arrives(memory.scores_empty);
        mbarrier_wait_in_block(memory.p_empty, tile % 2 ^ 1);  // no product reads the tile before
        if (part == 0)
#pragma unroll
            for (int r = 0; r < rounds; ++r) memory.rescaling[head + 32 * r] = rescaling[r];
        if (risen && lane_id() == 0) atomicMax(&memory.rescaled, tile + 1);
#pragma unroll
        for (int r = 0; r < rounds; ++r)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                *reinterpret_cast<Words*>(memory.of_tile.p + (head + 32 * r) * 128 +
                                          (((2 * part + i) ^ (head & 7)) << 4)) =
                    Words{{pairs[r][4 * i], pairs[r][4 * i + 1], pairs[r][4 * i + 2], pairs[r][4 * i + 3]}};
        fence_proxy_async_shared();
        warp_arrives(memory.p_full);
    }
    // conclude(head, reference in base e, sum): a thread a head.
    template <class Conclude>
    __device__ void finish(Conclude conclude) {
        if (warp >= heads / 8) return;
#pragma unroll
        for (int r = 0; r < rounds; ++r) {
            float all = sum[r] + __shfl_xor_sync(all_lanes, sum[r], 8);
            all += __shfl_xor_sync(all_lanes, all, 16);
            // Where all logits are NaN there is no maximum; nor is the row empty.
            if (part == 0)
                conclude(head + 32 * r,
                         all != all                ? all
                         : reference[r] == nothing ? minus_infinity()
                                                   : reference[r] * ln_2,
                         all);
        }
    }
};

template <int rows_each_>
struct RowsOf {
    static constexpr int rows_each = rows_each_, row_bytes = token_bytes, pitch = token_bytes;
};
// One of some warps that bring a tile, a slot a lane; where none is, zeros, as w = 0 must find a number. Softening
// warps bring the first three, weighers each into the place of the tile that they have weighed.
template <int heads, int warps>
struct Carrier {
    using Rows = RowsOf<tokens / warps>;
    static constexpr int arrivals = 8 / warps;
    ScoresMemory<heads>& memory;
    const std::uint8_t* pages;
    const std::int32_t* own;  // of `count` slots
    int count, tiles;
    std::int64_t cache_slots;
    const int warp = warp_id() % warps;
    std::int32_t next = -1;

    // Which rows of the tile this lane brings next.
    __device__ void find(int tile) {
        const int slot = tile * tokens + warp * Rows::rows_each + lane_id();
        next = lane_id() < Rows::rows_each && slot < count ? own[slot] : -1;
    }
    __device__ void bring(int at) {
        constexpr std::uint32_t all = (1U << Rows::rows_each) - 1;
        const bool there = next >= 0 && next < cache_slots;
        const std::uint32_t present = __ballot_sync(all_lanes, there);
        unsigned char* rows = memory.ring.tile[at] + warp * Rows::rows_each * token_bytes;
        Mbarrier& full = memory.ring.full[at];
        if (present != all) clear_absent<Rows>(rows, present);
        if (lane_id() == 0) {
            mbarrier_expect(full, __popc(present) * token_bytes);
            mbarrier_arrive(full, arrivals);
        }
        __syncwarp();
        if (there)
            bulk_load(rows + lane_id() * token_bytes, pages + std::int64_t{next} * token_bytes, token_bytes, full);
    }
};

}  // namespace dsa::code_tiles
