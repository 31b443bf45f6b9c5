// What level 10 is made of: a token's codes go from the cache's rows in shared memory through registers into the
// tensor cores. No tile of numbers is ever stored.
//
//     s^T = k q^T             [64 tokens, heads]     the scorers, one warpgroup
//     o^T += v^T p^T          [512 columns, heads]   the weighers, two warpgroups of 256 columns
//
// A is what was dequantised, in registers; B lies in shared memory, q and p in f16. Four warps bring tokens.
//
// f16 has 11 significant bits and too few exponents, so each token has a power of two of its own, 2^e, that of its
// largest scale: numbers are code x scale / 2^e, below 1000. q is divided by one power of two for all heads of a
// block. And what is weighed is not p but p 2^e: the reference of the softmax follows the largest of these, in base
// 2,
//
//     y = log2 p + e,   w = 2^(y - reference),   out = sum w v / sum w 2^-e
//
// so w is at most 2^15, f16's largest power of two, whatever the scales are, and where w is too small for f16 p v is
// small in the same proportion.
#pragma once

#include "optimized/attention/distinct.cuh"
#include "optimized/attention/row_ring.cuh"
#include "optimized/attention/softmax.cuh"
#include "optimized/hopper/matrix.h"
#include "optimized/hopper/pairs.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/wgmma_f16.h"
#include "optimized/sparse_decode/token.cuh"

namespace dsa::code_tiles {

using cached_tiles::latent, cached_tiles::rotated, cached_tiles::scaled, cached_tiles::token_bytes,
    cached_tiles::warp_arrives, cached_tiles::width;

constexpr int warpgroup = 128;
constexpr int tokens = 64;  // of a tile
constexpr int stages = 3;
constexpr int carriers = 4;         // warps that bring tokens
constexpr int panels = width / 64;  // of q: 64 columns, 128 bytes a head
constexpr int rotated_panel = latent / 64;
constexpr int quarters = latent / scaled;  // of a token, each with its scale
constexpr int scales_at = latent, rotated_at = latent + 4 * quarters;
constexpr int most_slots = 2048;
constexpr int weighing = 2;                 // warpgroups
constexpr int columns = latent / weighing;  // of a weigher
constexpr int fragments = columns / 64;     // of 64 of them
constexpr int threads = 4 * warpgroup;
// 128 registers a thread of all warps, shared out again.
constexpr int weigher_registers = 184, scorer_registers = 120, carrier_registers = 24;
enum NamedBarrier { all_threads, of_scorers, of_weighers, of_both };
constexpr float log2_e = 1.44269504088896340736F, ln_2 = 0.69314718055994530942F;
constexpr float nothing = -1e30F;     // a reference before the first token: finite, so that differences are numbers
constexpr float let_grow = 15.0F;     // the reference follows only when w would grow beyond 2^15
constexpr int largest_exponent = 60;  // of a token
// Weighers hear of a tile's p when this many of 20 units of the next tile's q k^T have been issued: p v goes on
// beside the next softmax then, and not beside the products that this softmax waits for.
constexpr int told_after = 19;
constexpr int exponent_of_q = 10;  // q's largest is made 2^10 ... 2^11

using Selection = DistinctSlots<weighing * warpgroup, most_slots, 12>;

// Tokens as they are in the cache, 656 bytes apart: 41 pieces of 16 bytes, an odd number, and 4 words more than a
// multiple of 32.
struct Ring {
    static constexpr int pitch = token_bytes, row_bytes = token_bytes, rows_each = tokens / carriers;
    alignas(128) unsigned char tile[stages][tokens * token_bytes];
    Mbarrier full[stages], empty[stages];
};
using Turn = RingTurn<stages>;

template <int heads>
struct Memory {
    alignas(1024) unsigned char q[panels][heads * 128];
    union {
        alignas(1024) unsigned char p[2][heads * 128];  // of two tiles in turn: [heads, tokens]
        typename Selection::Table table;                // before the first tile's softmax
    };
    Ring ring;
    alignas(8) std::uint16_t factors[stages][quarters][tokens];  // scale / 2^e, f16
    Selection selection;
    alignas(8) float reference[heads];
    alignas(8) float rescaling[2][heads];  // by which older sums are multiplied,
    int rescaled[2];                       // where this is the tile's number + 1
    alignas(16) int rises[2][4];           // the tile's number + 1, each scoring warp's
    float of_warp[4][heads];               // each scoring warp's maxima, or sums
    alignas(8) float one_over[heads];
    int largest_q;  // magnitude, as bits of bf16
    Mbarrier q_full, q_taken, counts_known, p_full[2], p_empty[2];
};

__device__ inline int group() { return lane_id() / 4; }  // the fragments' g and p, see hopper/mma.h
__device__ inline int place() { return lane_id() % 4; }
__device__ inline float power_of_two(int e) { return __uint_as_float(static_cast<std::uint32_t>(e + 127) << 23); }

struct alignas(16) Words {
    std::uint32_t at[4];
};
struct alignas(8) Two {
    float at[2];
};
struct alignas(16) Four {
    float at[4];
};

template <int heads>
__device__ void init_barriers(Memory<heads>& memory) {
    for (int i = 0; i < stages; ++i) {
        mbarrier_init(memory.ring.full[i], carriers);
        mbarrier_init(memory.ring.empty[i], 4 * (1 + weighing));
    }
    for (int i = 0; i < 2; ++i) {
        mbarrier_init(memory.p_full[i], 4);
        mbarrier_init(memory.p_empty[i], 4 * weighing);
        memory.rescaled[i] = 0;
        for (int& warp : memory.rises[i]) warp = 0;
    }
    memory.largest_q = 0;
    mbarrier_init(memory.counts_known, 4 * weighing);
    mbarrier_init(memory.q_full, 1);
    mbarrier_init(memory.q_taken, 4 * (1 + weighing));
    fence_mbarrier_init();
}

// ---- who brings tokens ----

// One of the four warps, a slot a lane; where none is, zeros, as w = 0 must find a number. own: of `count` slots.
// before_second(): until the second tile's place is free for the first time.
template <class Wait>
__device__ void bring(Ring& ring, const std::uint8_t* pages, const std::int32_t* own, int count, int tiles,
                      std::int64_t cache_slots, int carrier, Wait before_second) {
    constexpr std::uint32_t all = (1U << Ring::rows_each) - 1;
    const auto index = [&](int tile) {
        const int slot = tile * tokens + carrier * Ring::rows_each + lane_id() % Ring::rows_each;
        return slot < count ? own[slot] : -1;
    };
    Turn turn;
    std::int32_t next = index(0);
    for (int tile = 0; tile < tiles; ++tile, turn.next()) {
        const std::int32_t now = next;
        next = tile + 1 < tiles ? index(tile + 1) : -1;
        const bool there = lane_id() < Ring::rows_each && now >= 0 && now < cache_slots;
        const std::uint32_t present = __ballot_sync(all_lanes, there);
        unsigned char* rows = ring.tile[turn.at] + carrier * Ring::rows_each * Ring::pitch;
        if (tile == 1) before_second();
        mbarrier_wait_in_block(ring.empty[turn.at], turn.parity ^ 1);
        if (present != all) clear_absent<Ring>(rows, present);
        if (lane_id() == 0) mbarrier_arrive_expect(ring.full[turn.at], __popc(present) * token_bytes);
        __syncwarp();
        if (there)
            bulk_load(rows + lane_id() * Ring::pitch, pages + std::int64_t{now} * token_bytes, token_bytes,
                      ring.full[turn.at]);
    }
}

// ---- who scores ----

template <int heads>
struct Scorer {
    static constexpr int mine = heads / 4;  // heads of a thread: 8 j + 2 p + b
    Memory<heads>& memory;
    float s[heads / 2];  // [j, token g or g + 8, b]
    float sum[mine];     // of this thread's tokens
    float to_log2;       // from a product of q and a token, both divided by their powers of two
    const int warp = warp_id() % 4;
    const int token = 16 * warp + group();  // and token + 8

    __device__ explicit Scorer(Memory<heads>& of, float scale) : memory(of) {
#pragma unroll
        for (float& x : sum) x = 0.0F;
        to_log2 = scale * log2_e;
    }
    // When q is there.
    __device__ void set_scale() { to_log2 *= power_of_two(max((memory.largest_q >> 7) - 127, -100) - exponent_of_q); }
    __device__ static int head_of(int i) { return i / 2 * 8 + 2 * place() + i % 2; }

    // A token's exponent, and its quarters' factors as pairs of twice the same.
    __device__ static int factors_of(const Four& scales, std::uint32_t (&pairs)[quarters]) {
        std::uint32_t largest = 0;
#pragma unroll
        for (const float scale : scales.at) largest = max(largest, __float_as_uint(scale) & 0x7fffffffU);
        const int e = max(-largest_exponent, min(largest_exponent, static_cast<int>(largest >> 23) - 127));
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
        weights(tile, buffer, exponent, counts(tile));
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
        Descriptor q = k_major(memory.q[0], Swizzle::bytes_128);
        hold(q);
        constexpr int latents = 2 * rotated_panel, units = latents + 4;
#pragma unroll
        for (int unit = 0; unit < units; ++unit) {
            const bool turned = unit >= latents;
            if (unit + 1 < units) load(codes[(unit + 1) % 2], rows, unit + 1);
            if (unit == told_after && tile > 0) tell(tile - 1);
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
                wgmma<bf16>(s, to[0], advanced(q, rotated_panel * heads * 128 + 32 * (unit - latents)), true);
            } else {
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    wgmma_f16(s, to[i], advanced(q, unit / 2 * heads * 128 + 64 * (unit % 2) + 32 * i), unit + i > 0);
            }
            wgmma_commit();
        }
        warp_arrives(memory.ring.empty[turn.at]);
        wgmma_wait<0>();
        hold(s);
    }

    // s becomes w, in shared memory.
    __device__ void weights(int tile, int buffer, const int (&exponent)[2], std::uint64_t counts) {
        float by[2], start[2], back[2];
#pragma unroll
        for (int o = 0; o < 2; ++o) {
            by[o] = to_log2 * power_of_two(exponent[o]);
            start[o] = (counts >> (token + 8 * o) & 1) != 0 ? static_cast<float>(exponent[o]) : minus_infinity();
            back[o] = power_of_two(-exponent[o]);
        }
        float reference[mine];
        const auto read_reference = [&] {
#pragma unroll
            for (int i = 0; i < mine; i += 2) {
                const Two two = *reinterpret_cast<const Two*>(&memory.reference[head_of(i)]);
                reference[i] = two.at[0];
                reference[i + 1] = two.at[1];
            }
        };
        read_reference();
        float most[4] = {nothing, nothing, nothing, nothing};  // not one after another: each waits for the one before
#pragma unroll
        for (int i = 0; i < heads / 2; ++i) {
            s[i] = s[i] * by[i / 2 % 2] + start[i / 2 % 2];
            most[i % 4] = fmaxf(most[i % 4], s[i] - reference[i / 4 * 2 + i % 2]);
        }
        const bool rises = __any_sync(all_lanes, fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])) > let_grow);
        if (rises && lane_id() == 0) memory.rises[buffer][warp] = tile + 1;
        barrier_sync(of_scorers, warpgroup);
        const int(&risen)[4] = memory.rises[buffer];
        if (risen[0] == tile + 1 || risen[1] == tile + 1 || risen[2] == tile + 1 || risen[3] == tile + 1) {
            raise(tile, buffer);
            read_reference();
#pragma unroll
            for (int i = 0; i < mine; ++i) sum[i] *= memory.rescaling[buffer][head_of(i)];
        }
#pragma unroll
        for (int j = 0; j < heads / 8; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float& x = s[4 * j + i];
                x = exp2_of(x - reference[2 * j + i % 2]);
                sum[2 * j + i % 2] += x * back[i / 2];
            }
        store(buffer);
    }
    __device__ void tell(int tile) { warp_arrives(memory.p_full[tile % 2]); }
    __device__ void store(int buffer) const {
        const int lane = lane_id(), piece = 2 * warp + lane / 8 % 2;
        if constexpr (heads == 8) {
            std::uint32_t two[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) two[i] = to_f16_pair(s[2 * i], s[2 * i + 1]);
            store_matrices<true>(two, memory.p[buffer] + lane % 8 * 128 + ((piece ^ (lane % 8)) << 4));
        } else {
#pragma unroll
            for (int j = 0; j < heads / 8; j += 2) {
                std::uint32_t four[4];  // heads 8 j ..., tokens g and g + 8; then heads 8 j + 8 ...
#pragma unroll
                for (int i = 0; i < 4; ++i) four[i] = to_f16_pair(s[4 * j + 2 * i], s[4 * j + 2 * i + 1]);
                const int head = 8 * j + lane / 16 * 8 + lane % 8;
                store_matrices<true>(four, memory.p[buffer] + head * 128 + ((piece ^ (lane % 8)) << 4));
            }
        }
    }

    // What a fold of each head over this warp's tokens is goes to memory.of_warp.
    template <class Of, class Fold>
    __device__ void fold_over_tokens(Of of, Fold fold) {
#pragma unroll
        for (int i = 0; i < mine; ++i) {
            float x = of(i);
#pragma unroll
            for (int flip = 4; flip < warp_size; flip *= 2) x = fold(x, __shfl_xor_sync(all_lanes, x, flip));
            if (group() == 0) memory.of_warp[warp][head_of(i)] = x;
        }
        barrier_sync(of_scorers, warpgroup);
    }
    // Every head's reference becomes its largest y. Seldom.
    __device__ void raise(int tile, int buffer) {
        fold_over_tokens([&](int i) { return fmaxf(s[i / 2 * 4 + i % 2], s[i / 2 * 4 + 2 + i % 2]); },
                         [](float a, float b) { return fmaxf(a, b); });
        const int head = static_cast<int>(threadIdx.x) % warpgroup;
        if (head < heads) {
            const float before = memory.reference[head];
            float after = before;
#pragma unroll
            for (int w = 0; w < 4; ++w) after = fmaxf(after, memory.of_warp[w][head]);
            memory.rescaling[buffer][head] = exp2_of(before - after);
            memory.reference[head] = after;
        }
        if (head == 0) memory.rescaled[buffer] = tile + 1;
        barrier_sync(of_scorers, warpgroup);
    }
    // conclude(head, reference in base e, sum): a thread a head.
    template <class Conclude>
    __device__ void finish(Conclude conclude) {
        barrier_sync(of_scorers, warpgroup);
        fold_over_tokens([&](int i) { return sum[i]; }, [](float a, float b) { return a + b; });
        const int head = static_cast<int>(threadIdx.x) % warpgroup;
        if (head >= heads) return;
        const float all =
            (memory.of_warp[0][head] + memory.of_warp[1][head]) + (memory.of_warp[2][head] + memory.of_warp[3][head]);
        const float reference = memory.reference[head];
        // Where all logits are NaN there is no maximum; nor is the row empty.
        conclude(head, all != all ? all : reference == nothing ? minus_infinity() : reference * ln_2, all);
    }
};

// ---- who weighs ----

// Warp w has 64 columns: fragment 2 u + c / 2 of its weigher has column 32 u + 4 g + c in row 16 w + g + 8 (c % 2),
// so that a lane's word of four codes is two rows of two fragments.
template <int heads>
struct Weigher {
    static constexpr int units = 2 * tokens / 16;  // of a tile: 16 tokens, u; two fragments each
    Memory<heads>& memory;
    float out[fragments][heads / 2];
    const int first_column = static_cast<int>(threadIdx.x) / 32 * 64;  // the warp's
    const int quarter = first_column / scaled;
    std::uint32_t words[4];  // of four tokens: codes

    __device__ explicit Weigher(Memory<heads>& of) : memory(of) {
#pragma unroll
        for (auto& fragment : out)
#pragma unroll
            for (float& x : fragment) x = 0.0F;
    }
    // Tokens 2 p, 2 p + 1, 2 p + 8, 2 p + 9 of 16: no two lanes in one bank.
    __device__ void load(const unsigned char* stage, int unit) {
        const unsigned char* from =
            stage + (unit / 2 * 16 + 2 * place()) * token_bytes + first_column + unit % 2 * 32 + 4 * group();
#pragma unroll
        for (int i = 0; i < 4; ++i)
            words[i] = *reinterpret_cast<const std::uint32_t*>(from + (i % 2 + i / 2 * 8) * token_bytes);
    }
    __device__ void rescale(int buffer) {
#pragma unroll
        for (int j = 0; j < heads / 8; ++j) {
            const Two by = *reinterpret_cast<const Two*>(&memory.rescaling[buffer][8 * j + 2 * place()]);
#pragma unroll
            for (auto& fragment : out)
#pragma unroll
                for (int i = 0; i < 4; ++i) fragment[4 * j + i] *= by.at[i % 2];
        }
    }
    __device__ void hold_all() {
#pragma unroll
        for (auto& fragment : out) hold(fragment);
    }

    __device__ void weigh(int tile, const Turn& turn) {
        const unsigned char* stage = memory.ring.tile[turn.at];
        const int buffer = tile % 2;
        std::uint32_t a[2][2][4];  // [in turn, fragment, register]
        std::uint32_t by[2];       // factors of tokens 2 p, 2 p + 1; of 2 p + 8, 2 p + 9
        mbarrier_wait_in_block(memory.ring.full[turn.at], turn.parity);
        mbarrier_wait_in_block(memory.p_full[buffer], tile / 2 % 2);
        fence_proxy_async_shared();  // by those who read p: scorers have no time
        if (memory.rescaled[buffer] == tile + 1) {
            rescale(buffer);
            hold_all();
        }
        const std::uint16_t* factors = memory.factors[turn.at][quarter] + 2 * place();
        Descriptor of_p = k_major(memory.p[buffer], Swizzle::bytes_128);
        hold(of_p);
#pragma unroll
        for (int unit = 0; unit < units; ++unit) {
            const int step = unit / 2;
            load(stage, unit);
            if (unit % 2 == 0)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    by[i] = *reinterpret_cast<const std::uint32_t*>(factors + 16 * step + 8 * i);
            if (unit > 1) wgmma_wait<1>();
            const auto& of = words;
            auto& to = a[unit % 2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const std::uint32_t low = low_bytes_by_turns(of[2 * i], of[2 * i + 1]);
                const std::uint32_t high = high_bytes_by_turns(of[2 * i], of[2 * i + 1]);
                to[0][2 * i] = multiply_f16_pairs(f16_pair_of_codes<0>(low), by[i]);
                to[0][2 * i + 1] = multiply_f16_pairs(f16_pair_of_codes<1>(low), by[i]);
                to[1][2 * i] = multiply_f16_pairs(f16_pair_of_codes<0>(high), by[i]);
                to[1][2 * i + 1] = multiply_f16_pairs(f16_pair_of_codes<1>(high), by[i]);
            }
            const Descriptor p = advanced(of_p, 32 * step);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 2; ++i) wgmma_f16(out[unit % 2 * 2 + i], to[i], p, true);
            wgmma_commit();
        }
        warp_arrives(memory.ring.empty[turn.at]);
        wgmma_wait<0>();
        hold_all();
        warp_arrives(memory.p_empty[buffer]);
    }
    // use(head, column, four): sums of four columns in a row.
    template <class Use>
    __device__ void each_four(int count, Use use) const {
#pragma unroll
        for (int j = 0; j < heads / 8; ++j)
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const int head = 8 * j + 2 * place() + b;
                if (head >= count) continue;
#pragma unroll
                for (int u = 0; u < 2; ++u) {
                    Four four;
#pragma unroll
                    for (int c = 0; c < 4; ++c) four.at[c] = out[2 * u + c / 2][4 * j + c % 2 * 2 + b];
                    use(head, first_column + 32 * u + 4 * group(), four);
                }
            }
    }
};

}  // namespace dsa::code_tiles
