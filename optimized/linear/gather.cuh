// A warpgroup gathers rows of x, 128 bytes of each at a time, as wgmma reads them: swizzled. A thread has one piece
// of 16 bytes of every 16th row.
#pragma once

#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/swizzle.h"
#include "optimized/linear/tiles.cuh"

namespace dsa {

template <class T, int rows>
class Gather {
   public:
    static constexpr int threads = 128, pieces = 8, rows_at_once = threads / pieces, rounds = rows / rows_at_once;
    static constexpr int in_piece = 16 / static_cast<int>(sizeof(T));  // numbers

    __device__ Gather(const Linear& call, const T* x, const Tile& tile)
        : x_(x + tile.h * call.x_head),
          row_(call.x_row),
          k_(static_cast<int>(call.K)),
          parts_((tile.rows + 63) / 64) {
#pragma unroll
        for (int i = 0; i < rounds; ++i) {
            const int row = static_cast<int>(threadIdx.x) / pieces + i * rows_at_once;
            from_[i] = row < tile.rows ? static_cast<std::int32_t>(x_row_of(call, tile.row + row)) : -1;
        }
    }
    // From k on, to [rows, 128 bytes]. Rows that are not there become 0, and whole parts of 64 such rows stay as they
    // are.
    __device__ void bring(T* to, int k) const {
        const int thread = static_cast<int>(threadIdx.x);
        auto* there = reinterpret_cast<unsigned char*>(to) +
                      swizzled_offset(static_cast<std::uint32_t>(thread) * 16, Swizzle::bytes_128);
        const int at = k + thread % pieces * in_piece;
#pragma unroll
        for (int i = 0; i < rounds; ++i) {
            if (i * rows_at_once / 64 >= parts_) break;
            const bool counts = from_[i] >= 0 && at < k_;
            cp_async<16>(there + i * rows_at_once * 128, counts ? x_ + from_[i] * row_ + at : x_, counts ? 16 : 0);
        }
    }

   private:
    const T* x_;
    std::int64_t row_;
    int k_, parts_;
    std::int32_t from_[rounds];  // x's row, or -1
};

}  // namespace dsa
