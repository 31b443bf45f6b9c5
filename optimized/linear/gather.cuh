// A warpgroup gathers rows of x, 128 bytes of each at a time, as wgmma reads them: swizzled. A thread has one piece
// of 16 bytes of every 16th row.
#pragma once

#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/swizzle.h"
#include "optimized/linear/tiles.cuh"

namespace dsa {

// One warp of each scheduler gathers, and an instruction of a lone warp takes some 5 clocks: so a row costs two, an
// address and the copy.
template <class T, int rows>
class Gather {
   public:
    static constexpr int threads = 128, pieces = 8, rows_at_once = threads / pieces, rounds = rows / rows_at_once;
    static constexpr int in_piece = 16 / static_cast<int>(sizeof(T));  // numbers

    // Past the tile's last row, that one again: nobody stores what becomes of it.
    __device__ Gather(const Linear& call, const T* x, const Tile& tile)
        : piece_(x + tile.h * call.x_head + static_cast<int>(threadIdx.x) % pieces * in_piece),
          k_(static_cast<int>(call.K)),
          parts_((tile.rows + 63) / 64) {
#pragma unroll
        for (int i = 0; i < rounds; ++i) {
            const int row = static_cast<int>(threadIdx.x) / pieces + i * rows_at_once;
            const std::int64_t from = x_row_of(call, tile.row + (row < tile.rows ? row : tile.rows - 1));
            offset_[i] = static_cast<std::uint32_t>(from * (call.x_row / in_piece));
        }
    }
    // From k on, to [rows, 128 bytes]; zeros past the last k. Of 64 rows that are all past the tile's last nothing
    // comes.
    __device__ void bring(T* to, int k) const {
        unsigned char* there = reinterpret_cast<unsigned char*>(to) +
                               swizzled_offset(static_cast<std::uint32_t>(threadIdx.x) * 16, Swizzle::bytes_128);
        const int bytes = k + static_cast<int>(threadIdx.x) % pieces * in_piece < k_ ? 16 : 0;
#pragma unroll
        for (int i = 0; i < rounds; ++i) {
            if (i * rows_at_once / 64 >= parts_) break;
            const auto* from = reinterpret_cast<const unsigned char*>(piece_ + k) + std::uint64_t{offset_[i]} * 16;
            cp_async<16>(there + i * rows_at_once * 128, from, bytes);
        }
    }

   private:
    const T* piece_;  // this thread's, of row 0
    int k_, parts_;
    std::uint32_t offset_[rounds];  // of x's rows, in pieces
};

}  // namespace dsa
