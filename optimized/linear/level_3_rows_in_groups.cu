// Level 3 where rows come in groups, as experts have them. A warpgroup gathers the rows of x by cp.async, since a
// tensor copy takes rows that follow each other, while W still comes by tensor copies. A tile is 192 rows by 256
// columns, of which each of two warpgroups multiplies one half of the columns, and only as many times 64 rows as
// there are. Blocks stay: each takes tiles until there are no more, and the next tile's first stages come while this
// one's sums are stored.
#include "optimized/hopper/fence.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/ring.h"
#include "optimized/linear/fragments.cuh"
#include "optimized/linear/gather.cuh"
#include "optimized/linear/maps.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int consumers = 2;      // warpgroups
constexpr int parts = 3;          // of 64 rows, a tile
constexpr int rows = 64 * parts;  // of y, a tile
constexpr int depth = 64;         // of k, a stage: as wide as the swizzle
constexpr int step = 16;          // of k, an instruction
constexpr int producers = 128;    // threads
constexpr Swizzle wide = Swizzle::bytes_128;
template <int columns>
constexpr int stages = columns == 256 ? 4 : 5;

template <int columns>
struct Memory {
    struct Stage {
        alignas(1024) bf16 x[rows * depth];     // [row, k]
        alignas(1024) bf16 w[columns * depth];  // [n, k], or in panels of 64 columns [panel, k, n]
    };
    Stage stage[stages<columns>];
    TilesBefore before;
    Mbarrier full[stages<columns>];   // the producers' arrivals, one for W's bytes
    Mbarrier empty[stages<columns>];  // an arrival a consumer warp
};

template <int columns>
using Turn = RingTurn<stages<columns>>;

// One warpgroup.
template <int columns, bool k_side_by_side>
__device__ void produce(Memory<columns>& memory, const TensorMap& w, const Linear& call, int across) {
    const int k_count = static_cast<int>(call.K), tiles = memory.before.of[call.heads] * across;
    Turn<columns> turn;
    for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
        const Tile tile = tile_of(memory.before, call, number, across, columns);
        const Gather<bf16, rows> x(call, call.x, tile);
        for (int k = 0; k < k_count; k += depth, turn.next()) {
            auto& stage = memory.stage[turn.stage];
            Mbarrier& full = memory.full[turn.stage];
            mbarrier_wait_in_block(memory.empty[turn.stage], turn.parity ^ 1);
            if (threadIdx.x == 0) {
                mbarrier_arrive_expect(full, static_cast<int>(sizeof stage.w));
                if constexpr (k_side_by_side) {
                    tma_load(stage.w, w, {k, tile.column, tile.h}, full);
                } else {
#pragma unroll
                    for (int panel = 0; panel < columns / 64; ++panel)
                        tma_load(stage.w + panel * 64 * depth, w, {tile.column + panel * 64, k, tile.h}, full);
                }
            }
            x.bring(stage.x, k);
            cp_async_arrive(full);
        }
    }
}

// Sums of one tile's first `with_rows` times 64 rows, for a consumer's half of the columns.
template <int with_rows, int columns, bool k_side_by_side>
__device__ void multiply(Memory<columns>& memory, float (&sums)[parts][columns / 4], Turn<columns>& turn,
                         int consumer, int k_count) {
    constexpr Form form{.b_is_mn_major = !k_side_by_side};
    constexpr int w_step = k_side_by_side ? step * 2 : step * 128;  // bytes
    const auto release = [&](int stage) {
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(memory.empty[stage]);
    };
    int before = 0;
    for (int k = 0; k < k_count; k += depth, turn.next()) {
        mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
        fence_proxy_async_shared();  // cp.async writes as threads do
        const auto& stage = memory.stage[turn.stage];
        const bf16* half = stage.w + consumer * (columns / 2) * depth;
        const Descriptor x = k_major(stage.x, wide);
        const Descriptor w = k_side_by_side ? k_major(half, wide) : mn_major(half, 64 * depth * 2, wide);
        wgmma_fence();
#pragma unroll
        for (int at = 0; at < depth / step; ++at)
#pragma unroll
            for (int part = 0; part < with_rows; ++part)
                wgmma<bf16, form>(sums[part], advanced(x, part * 64 * depth * 2 + at * step * 2),
                                  advanced(w, at * w_step), k > 0 || at > 0);
        wgmma_commit();
        if (k > 0) {  // the products of the stage before are done
            wgmma_wait<1>();
            release(before);
        }
        before = turn.stage;
    }
    wgmma_wait<0>();
#pragma unroll
    for (int part = 0; part < with_rows; ++part) hold(sums[part]);
    release(before);
}

template <int columns, bool k_side_by_side>
__device__ void consume(Memory<columns>& memory, const Linear& call, int across, int consumer) {
    const int k_count = static_cast<int>(call.K), tiles = memory.before.of[call.heads] * across;
    Turn<columns> turn;
    for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
        const Tile tile = tile_of(memory.before, call, number, across, columns);
        float sums[parts][columns / 4];
        if (tile.rows > 128)
            multiply<3, columns, k_side_by_side>(memory, sums, turn, consumer, k_count);
        else if (tile.rows > 64)
            multiply<2, columns, k_side_by_side>(memory, sums, turn, consumer, k_count);
        else
            multiply<1, columns, k_side_by_side>(memory, sums, turn, consumer, k_count);
#pragma unroll
        for (int part = 0; part < parts; ++part)
            if (part * 64 < tile.rows)
                store_fragments<columns / 2>(call, sums[part], tile.h, tile.row + part * 64, tile.rows - part * 64,
                                             tile.column + consumer * (columns / 2));
    }
}

template <int columns, bool k_side_by_side>
__global__ void __launch_bounds__(producers + 128 * consumers, 1)
    linear_groups(const __grid_constant__ TensorMap w, const __grid_constant__ Linear call, int across) {
    auto& memory = shared<Memory<columns>>();
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages<columns>; ++s) {
            mbarrier_init(memory.full[s], 1 + producers);
            mbarrier_init(memory.empty[s], 4 * consumers);
        }
        fence_mbarrier_init();
    }
    if (warp_id() == 1) count_tiles(memory.before, call, rows);
    __syncthreads();
    const int warpgroup = static_cast<int>(threadIdx.x) / 128;
    if (warpgroup == 0) {
        give_back_registers<56>();
        produce<columns, k_side_by_side>(memory, w, call, across);
    } else {
        take_registers<224>();
        consume<columns, k_side_by_side>(memory, call, across, warpgroup - 1);
    }
}

template <int columns, bool k_side_by_side>
void start(const Linear& call) {
    launch("linear_groups", linear_groups<columns, k_side_by_side>,
           {.blocks = multiprocessors,
            .threads = producers + 128 * consumers,
            .shared_bytes = sizeof(Memory<columns>),
            .stream = call.stream},
           map_of_w<columns, k_side_by_side>(call), call, static_cast<int>(blocks_for(call.N, columns)));
}

template <int columns>
void start(const Linear& call) {
    return call.w_k == 1 ? start<columns, true>(call) : start<columns, false>(call);
}

}  // namespace

void linear_level_3_of_groups(const Linear& call) {
    // Few rows are better spread over multiprocessors than multiplied fast.
    if (call.N > 128 && call.T > 64) return start<256>(call);
    start<128>(call);
}

}  // namespace dsa
