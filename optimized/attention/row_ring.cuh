// Selected rows on their way to shared memory: a ring of tiles of 32 rows, filled by some warps and read by others.
// Rows come by bulk copies, one a row, or 16 bytes a thread by cp.async. A copy of which each lane has its own takes
// some 66 clocks a lane, one after another, of the warp that issues it; so several warps share a tile. A row that is
// not there, -1 or past the end, is not copied; `present` says which are.
#pragma once

#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/mbarrier.h"

namespace dsa {

// A tile's rows lie `pitch` bytes apart, a multiple of 16 that keeps the readers' lanes out of each other's banks.
// carriers: warps that fill it, each some rows of every tile.
template <int stages_, int row_bytes_, int pitch_, int carriers_>
struct RowRing {
    static constexpr int stages = stages_, row_bytes = row_bytes_, pitch = pitch_, rows = 32, carriers = carriers_;
    static constexpr int rows_each = rows / carriers;
    static_assert(rows_each == 8, "a carrier's rows are a byte of `present`");

    alignas(128) unsigned char tile[stages][rows * pitch];
    alignas(4) std::uint8_t present[stages][carriers];  // a bit a row
    Mbarrier full[stages], empty[stages];

    // by_copies: bulk_rows fills it; else cp_async_rows.
    __device__ void init(int readers, bool by_copies) {
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(full[i], by_copies ? carriers : carriers * warp_size);
            mbarrier_init(empty[i], readers);
        }
        fence_mbarrier_init();
    }
};

// The tile that comes next, counted over everything that a block does.
template <int stages>
struct RingTurn {
    int at = 0, parity = 0;
    __device__ void next() {
        if (++at == stages) at = 0, parity ^= 1;
    }
};

// A carrier's rows of the next tile, a row a lane. index: this lane's row of `count` at `from`, of the first 8 lanes.
template <class Ring>
__device__ void bulk_rows(Ring& ring, RingTurn<Ring::stages>& turn, int carrier, const void* from, std::int64_t count,
                          std::int32_t index) {
    const bool there = lane_id() < Ring::rows_each && index >= 0 && index < count;
    const std::uint32_t present = __ballot_sync(all_lanes, there);
    mbarrier_wait_in_block(ring.empty[turn.at], turn.parity ^ 1);
    if (lane_id() == 0) {
        ring.present[turn.at][carrier] = static_cast<std::uint8_t>(present);
        mbarrier_arrive_expect(ring.full[turn.at], __popc(present) * Ring::row_bytes);
    }
    __syncwarp();
    if (there)
        bulk_load(ring.tile[turn.at] + (carrier * Ring::rows_each + lane_id()) * Ring::pitch,
                  static_cast<const unsigned char*>(from) + std::int64_t{index} * Ring::row_bytes, Ring::row_bytes,
                  ring.full[turn.at]);
    turn.next();
}

// The same by cp.async, 8 lanes a row; a row that is not there becomes zeros. index[i]: of row 4 i + lane / 8.
template <class Ring>
__device__ void cp_async_rows(Ring& ring, RingTurn<Ring::stages>& turn, int carrier, const void* from,
                              std::int64_t count, const std::int32_t (&index)[Ring::rows_each / 4]) {
    mbarrier_wait_in_block(ring.empty[turn.at], turn.parity ^ 1);
#pragma unroll
    for (int i = 0; i < Ring::rows_each / 4; ++i) {
        const bool there = index[i] >= 0 && index[i] < count;
        const int row = carrier * Ring::rows_each + 4 * i + lane_id() / 8;
        unsigned char* to = ring.tile[turn.at] + row * Ring::pitch + lane_id() % 8 * 16;
        const unsigned char* piece = static_cast<const unsigned char*>(from) +
                                     (there ? std::int64_t{index[i]} * Ring::row_bytes : 0) + lane_id() % 8 * 16;
#pragma unroll
        for (int at = 0; at < Ring::row_bytes; at += 128) cp_async<16>(to + at, piece + at, there ? 16 : 0);
    }
    cp_async_arrive(ring.full[turn.at]);
    turn.next();
}

}  // namespace dsa
