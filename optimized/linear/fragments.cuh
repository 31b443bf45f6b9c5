// Sums of wgmma to y. A thread has two neighbours of a row, its neighbour lane the next two: where y's alignment
// allows, they exchange what they have of two pieces of 8 columns, so that each stores four neighbours at once, and
// four lanes fill the 32 bytes that the memory moves.
#pragma once

#include "optimized/hopper/wgmma.h"
#include "optimized/linear/rows.cuh"

namespace dsa {

struct alignas(8) Four {
    std::uint32_t pairs[2];  // of bf16
};

__device__ inline bool stores_four(const Linear& call) {
    return call.y != nullptr && reinterpret_cast<std::uintptr_t>(call.y) % 8 == 0 && call.y_row % 4 == 0 &&
           call.y_head % 4 == 0 && call.N % 4 == 0;
}

// A warpgroup's 64 rows, of which `rows` are y's, from row `row` and column `column` on. The whole warp comes.
template <int columns>
__device__ void store_fragments(const Linear& call, const float (&sums)[columns / 2], std::int64_t h,
                                std::int64_t row, int rows, int column) {
    const int thread = static_cast<int>(threadIdx.x);
    if (stores_four(call)) {
        const bool odd = thread % 2 != 0;
#pragma unroll
        for (int i = 0; i < columns / 2; i += 8)
#pragma unroll
            for (int half = 0; half < 4; half += 2) {  // the two rows of a thread
                const std::uint32_t left = to_bf16_pair(sums[i + half], sums[i + half + 1]);
                const std::uint32_t right = to_bf16_pair(sums[i + 4 + half], sums[i + 4 + half + 1]);
                const std::uint32_t other = __shfl_xor_sync(all_lanes, odd ? left : right, 1);
                const Four four = odd ? Four{{other, right}} : Four{{left, other}};
                const int r = wgmma_row(thread, half);
                const int n = column + i / 4 * 8 + thread % 4 / 2 * 4 + (odd ? 8 : 0);
                if (r < rows && n < call.N)
                    *reinterpret_cast<Four*>(call.y + h * call.y_head + (row + r) * call.y_row + n) = four;
            }
        return;
    }
#pragma unroll
    for (int i = 0; i < columns / 2; ++i) {
        const int r = wgmma_row(thread, i), n = column + wgmma_column(thread, i);
        if (r < rows && n < call.N) store_y(call, h, row + r, n, sums[i]);
    }
}

}  // namespace dsa
