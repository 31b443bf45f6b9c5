// q on its way to the f16 panels of code_tiles.cuh: one bulk copy brings a block's rows into the place of tiles 1 and
// 2, and all warps that do not bring tokens convert them. In loops: code that runs once a block is fetched while
// memory is busiest, and cost more than it did when it was unrolled (notes.md).
#pragma once

#include "optimized/sparse_decode/code_tiles.cuh"

namespace dsa::code_tiles {

// The columns of a step of 16 are so chosen that a lane loads 8 bytes of a token's row at once (Scorer::load): of
// each 128 columns lane p has 64 (p / 2) + 8 (p % 2) + 16 v ..., v = 0 ... 3. Of the latent these are two steps, of
// the rotated columns one. Each four numbers of a lane are a step's: its columns 2 p, 2 p + 1, 2 p + 8 and 2 p + 9.
template <int heads>
struct QueryPanels {
    static constexpr int row_bytes = 2 * width;
    static_assert(heads * row_bytes <= static_cast<int>((stages - 1) * tokens * token_bytes), "two tiles' place");
    static constexpr int warps = 4 * (weighing + 1), converters = warps * warp_size;  // warps 0, 1, ...
    static constexpr int of_row = width / 8 / 4, latents = latent / 8 / 4;  // times four pieces of 8 columns
    static constexpr int halves = 2, of_half = heads == 8 ? 8 : heads / halves, each = of_row * halves / warps;
    Memory<heads>& memory;
    const int count;  // of rows; the others are zeros

    // One thread.
    __device__ void bring(const bf16* rows) const {
        mbarrier_arrive_expect(memory.q_full, count * row_bytes);
        bulk_load(memory.ring.tile[1], rows, count * row_bytes, memory.q_full);
    }
    // All that convert, who meet at the barrier. When memory.q_taken is complete the panels are full, and the place
    // is free.
    __device__ void convert(int barrier) const {
        mbarrier_wait_in_block(memory.q_full, 0);
        int most = largest();
#pragma unroll
        for (int flip = 1; flip < warp_size; flip *= 2) most = max(most, __shfl_xor_sync(all_lanes, most, flip));
        if (lane_id() == 0) atomicMax(&memory.largest_q, most);
        barrier_sync(barrier, converters);
        const int exponent = exponent_of_q - max((memory.largest_q >> 7) - 127, -100);
        const std::uint32_t one = static_cast<std::uint32_t>(exponent + 127) << 7, by = one | one << 16;  // as bf16
        // A warp has three times four pieces of 8 columns, a lane p one of four, of half of the heads. Which four is
        // another for each of four heads: what is stored at once meets no bank twice.
        const int row = group(), p = place(), first = warp_id() / (warps / halves) * of_half + row;
        const Words* from = staged() + first * (row_bytes / 16);
#pragma unroll 1
        for (int i = warp_id() % (warps / halves), n = 0; n < each && first < heads; ++n, i += warps / halves) {
            const bool turned = i >= latents;
            const int at = turned ? latents + (i + row) % 2 : i / 4 * 4 + (i + row) % 4;
            const int piece = turned ? 4 * at + p : at / 4 * 16 + p / 2 * 8 + at % 4 * 2 + p % 2;
            unsigned char* panel = memory.q[at / 2] + first * 128;
            unsigned char* to[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                // Of the latent piece 2 step + half; of the rotated columns a piece is one step of two lanes.
                const int row_piece = turned ? 2 * p + j % 2 : at % 2 * 4 + j;
                const int word = turned ? at % 2 * 2 + j / 2 : p;
                to[j] = panel + ((row_piece ^ row) << 4) + 4 * word;
            }
#pragma unroll
            for (int head = 0; head < of_half; head += 8) {
                const Words eight = first + head < count ? from[head * (row_bytes / 16) + piece] : Words{};
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const std::uint32_t two = multiply_pairs(eight.at[j], by);
                    *reinterpret_cast<std::uint32_t*>(to[j] + head * 128) =
                        turned ? two : to_f16_pair(first_of_pair(two), second_of_pair(two));
                }
            }
        }
        fence_proxy_async_shared();
        warp_arrives(memory.q_taken);
    }

   private:
    __device__ const Words* staged() const { return reinterpret_cast<const Words*>(memory.ring.tile[1]); }
    // The largest magnitude that is a number, as bits of bf16.
    __device__ int largest() const {
        constexpr std::uint32_t infinite = 0x7f80;
        const int pieces = count * (row_bytes / 16);
        std::uint32_t pair = 0;
#pragma unroll 4
        for (int i = static_cast<int>(threadIdx.x); i < pieces; i += converters)
#pragma unroll
            for (const std::uint32_t two : staged()[i].at) pair = larger_pair(pair, magnitudes(two));
        std::uint32_t most = max(pair & 0xffffU, pair >> 16);
        if (most < infinite) return static_cast<int>(most);
        most = 0;
#pragma unroll 1
        for (int i = static_cast<int>(threadIdx.x); i < pieces; i += converters)
            for (const std::uint32_t two : staged()[i].at) {
                const std::uint32_t low = two & 0x7fff, high = two >> 16 & 0x7fff;
                if (low < infinite) most = max(most, low);
                if (high < infinite) most = max(most, high);
            }
        return static_cast<int>(most);
    }
};

}  // namespace dsa::code_tiles
