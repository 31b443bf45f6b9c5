// Level 11's division of a query between the two blocks of a cluster. Each scores 64 heads of its own over all
// tokens, as in level 10, sends their p to the other, and weighs half of the columns for all 128 heads:
//
//     s^T = k q^T             [64 tokens, 64 heads]     both blocks' own heads
//     o^T += v^T p^T          [256 columns, 128 heads]  both blocks' own columns
//
// So v is converted once for 128 heads. p has one place, [128 heads, tokens]: what a block made, and what it
// received.
#pragma once

#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/mbarrier_relaxed.h"
#include "optimized/sparse_decode/code_tiles.cuh"

namespace dsa::code_tiles {

constexpr int heads_of_block = 64, blocks_of_query = 2, all_heads = blocks_of_query * heads_of_block;
constexpr int bytes_of_p = heads_of_block * 128;
constexpr int columns_of_block = latent / blocks_of_query;

// What comes with a p.
struct alignas(16) Told {
    float rescaling[heads_of_block];  // by which older sums are multiplied,
    int rescaled;                     // where this is the tile's number + 1
    int unused[3];
};

struct HalvesMemory {
    alignas(1024) unsigned char q[panels][heads_of_block * 128];
    union {
        alignas(1024) unsigned char p[blocks_of_query][bytes_of_p];  // [heads, tokens]
        typename Selection::Table table;                             // before the first tile's softmax
    };
    Ring ring;
    alignas(8) std::uint16_t factors[stages][quarters][tokens];  // scale / 2^e, f16
    Selection selection;
    Told told[blocks_of_query];
    alignas(8) float reference[heads_of_block];
    alignas(16) int rises[2][4];       // the tile's number + 1, each scoring warp's
    float of_warp[4][heads_of_block];  // each scoring warp's maxima, or sums
    alignas(8) float one_over[all_heads];
    int largest_q;  // magnitude, as bits of bf16
    Mbarrier q_full, q_taken, counts_known, p_stored, p_full, p_empty;

    static constexpr bool stored_late = true;
    __device__ unsigned char* place_of(int) { return p[cluster_rank()]; }
    __device__ float (&rescaling_of(int))[heads_of_block] { return told[cluster_rank()].rescaling; }
    __device__ int& rescaled_of(int) { return told[cluster_rank()].rescaled; }
    // First when nobody looks for what counts in this place any more.
    __device__ void wait_for_place(int tile) { mbarrier_wait_in_block(p_empty, tile % 2); }
    __device__ void tell(int) {
        __syncwarp();
        if (lane_id() != 0) return;
        if (warp_id() % 4 == 0)
            mbarrier_arrive_expect(p_full, bytes_of_p + static_cast<int>(sizeof(Told)));  // what the other sends
        else
            mbarrier_arrive(p_full);
    }
    __device__ void tell_stored() { warp_arrives(p_stored); }
    // One thread, when all is stored.
    __device__ void send() {
        const int rank = cluster_rank();
        bulk_send(p[rank], p[rank], bytes_of_p, p_full, rank ^ 1);
        bulk_send(&told[rank], &told[rank], static_cast<int>(sizeof(Told)), p_full, rank ^ 1);
    }
};

__device__ inline void init_barriers(HalvesMemory& memory) {
    for (int i = 0; i < stages; ++i) {
        mbarrier_init(memory.ring.full[i], carriers);
        mbarrier_init(memory.ring.empty[i], 4 * (1 + weighing));
    }
    mbarrier_init(memory.p_stored, 4);
    mbarrier_init(memory.p_full, 4);
    mbarrier_init(memory.p_empty, 4 * weighing * blocks_of_query);
    for (auto& rises : memory.rises)
        for (int& warp : rises) warp = 0;
    memory.told[cluster_rank()].rescaled = 0;
    for (int& unused : memory.told[cluster_rank()].unused) unused = 0;
    for (float& by : memory.told[cluster_rank()].rescaling) by = 1.0F;
    memory.largest_q = 0;
    mbarrier_init(memory.counts_known, 4 * weighing);
    mbarrier_init(memory.q_full, 1);
    mbarrier_init(memory.q_taken, 4 * (1 + weighing));
    fence_mbarrier_init();
}

// Warp w has 32 columns: fragment c / 2 of its weigher has column 4 g + c in row 16 w + g + 8 (c % 2).
struct HalfWeigher {
    static constexpr int units = tokens / 16;  // of a tile: 16 tokens, both fragments
    HalvesMemory& memory;
    float out[2][all_heads / 2];
    const int first_column =
        columns_of_block * cluster_rank() + static_cast<int>(threadIdx.x) / 32 * 32;  // the warp's
    const int quarter = first_column / scaled;

    __device__ explicit HalfWeigher(HalvesMemory& of) : memory(of) {
#pragma unroll
        for (auto& fragment : out)
#pragma unroll
            for (float& x : fragment) x = 0.0F;
    }
    __device__ void rescale(int tile) {
#pragma unroll
        for (int source = 0; source < blocks_of_query; ++source) {
            const Told& told = memory.told[source];
            if (told.rescaled != tile + 1) continue;
#pragma unroll
            for (int j = 0; j < heads_of_block / 8; ++j) {
                const Two by = *reinterpret_cast<const Two*>(&told.rescaling[8 * j + 2 * place()]);
#pragma unroll
                for (auto& fragment : out)
#pragma unroll
                    for (int i = 0; i < 4; ++i) fragment[4 * (source * heads_of_block / 8 + j) + i] *= by.at[i % 2];
            }
        }
        hold_all();
    }
    __device__ void hold_all() {
#pragma unroll
        for (auto& fragment : out) hold(fragment);
    }
    __device__ void weigh(int tile, const Turn& turn) {
        std::uint32_t a[2][2][4];  // [in turn, fragment, register]
        mbarrier_wait_in_block(memory.ring.full[turn.at], turn.parity);
        mbarrier_wait_in_block(memory.p_stored, tile % 2);
        if (threadIdx.x == 0) memory.send();
        __syncwarp();
        convert(a[0], turn, 0);
        convert(a[1], turn, 1);
        mbarrier_wait_in_block(memory.p_full, tile % 2);
        if (memory.told[0].rescaled == tile + 1 || memory.told[1].rescaled == tile + 1) rescale(tile);
#pragma unroll
        for (int unit = 0; unit < units; ++unit) {
            if (unit > 1) {
                wgmma_wait<1>();
                convert(a[unit % 2], turn, unit);
            }
            const Descriptor of_p = advanced(k_major(memory.p[0], Swizzle::bytes_128), 32 * unit);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 2; ++i) wgmma_f16(out[i], a[unit % 2][i], of_p, true);
            wgmma_commit();
        }
        warp_arrives(memory.ring.empty[turn.at]);
        wgmma_wait<0>();
        hold_all();
        cached_tiles::release<blocks_of_query>(memory.p_empty);
    }
    // Both fragments of a unit. Tokens 2 p, 2 p + 1, 2 p + 8, 2 p + 9 of 16: no two lanes in one bank.
    __device__ void convert(std::uint32_t (&to)[2][4], const Turn& turn, int unit) const {
        const unsigned char* from =
            memory.ring.tile[turn.at] + (16 * unit + 2 * place()) * token_bytes + first_column + 4 * group();
        const std::uint16_t* factors = memory.factors[turn.at][quarter] + 16 * unit + 2 * place();
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const std::uint32_t first = *reinterpret_cast<const std::uint32_t*>(from + 8 * i * token_bytes);
            const std::uint32_t second = *reinterpret_cast<const std::uint32_t*>(from + (8 * i + 1) * token_bytes);
            const std::uint32_t by = *reinterpret_cast<const std::uint32_t*>(factors + 8 * i);
            const std::uint32_t low = low_bytes_by_turns(first, second), high = high_bytes_by_turns(first, second);
            to[0][2 * i] = multiply_f16_pairs(f16_pair_of_codes<0>(low), by);
            to[0][2 * i + 1] = multiply_f16_pairs(f16_pair_of_codes<1>(low), by);
            to[1][2 * i] = multiply_f16_pairs(f16_pair_of_codes<0>(high), by);
            to[1][2 * i + 1] = multiply_f16_pairs(f16_pair_of_codes<1>(high), by);
        }
    }
    // use(head, column, four): sums of four columns in a row.
    template <class Use>
    __device__ void each_four(int count, Use use) const {
#pragma unroll
        for (int j = 0; j < all_heads / 8; ++j)
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const int head = 8 * j + 2 * place() + b;
                if (head >= count) continue;
                Four four;
#pragma unroll
                for (int c = 0; c < 4; ++c) four.at[c] = out[c / 2][4 * j + c % 2 * 2 + b];
                use(head, first_column + 4 * group(), four);
            }
    }
};

}  // namespace dsa::code_tiles
