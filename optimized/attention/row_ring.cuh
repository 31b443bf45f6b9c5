// Selected rows on their way to shared memory: a ring of tiles of 32 rows, filled by some warps, a bulk
// copy a row, and read by others. Copies of a warp's lanes are issued one after another, some 66 clocks each, so
// several warps share a tile. A row that is not there, -1 or past the end, is not copied; `present` says which are.
#pragma once

#include "optimized/hopper/bulk.h"
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

    __device__ void init(int readers) {
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(full[i], carriers);
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

// Zeros where a row is not there: whoever multiplies by its weight, 0, must find a number.
template <class Ring>
__device__ void clear_absent(unsigned char* rows, std::uint32_t present) {
    struct alignas(16) Piece {
        std::uint32_t at[4];
    };
    constexpr std::uint32_t all = (1U << Ring::rows_each) - 1;
    for (std::uint32_t absent = ~present & all; absent != 0; absent &= absent - 1)
        for (int i = lane_id(); i < Ring::row_bytes / 16; i += warp_size)
            reinterpret_cast<Piece*>(rows + (__ffs(absent) - 1) * Ring::pitch)[i] = {};
    fence_proxy_async_shared();  // the next copy to this place comes after them
    __syncwarp();
}

// A carrier's rows of the next tile, a row a lane. index: this lane's row of `count` at `from`, of the first 8 lanes.
template <bool zeros, class Ring>
__device__ void bring_rows(Ring& ring, RingTurn<Ring::stages>& turn, int carrier, const void* from,
                           std::int64_t count, std::int32_t index) {
    const bool there = lane_id() < Ring::rows_each && index >= 0 && index < count;
    const std::uint32_t present = __ballot_sync(all_lanes, there);
    unsigned char* rows = ring.tile[turn.at] + carrier * Ring::rows_each * Ring::pitch;
    mbarrier_wait_in_block(ring.empty[turn.at], turn.parity ^ 1);
    if (zeros) clear_absent<Ring>(rows, present);
    if (lane_id() == 0) {
        ring.present[turn.at][carrier] = static_cast<std::uint8_t>(present);
        mbarrier_arrive_expect(ring.full[turn.at], __popc(present) * Ring::row_bytes);
    }
    __syncwarp();
    if (there)
        bulk_load(rows + lane_id() * Ring::pitch,
                  static_cast<const unsigned char*>(from) + std::int64_t{index} * Ring::row_bytes, Ring::row_bytes,
                  ring.full[turn.at]);
    turn.next();
}

}  // namespace dsa
