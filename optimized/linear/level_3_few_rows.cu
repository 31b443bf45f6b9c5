// Level 3, at most 64 rows: a step of decoding. W's bytes are the bound, each is used once, so many blocks read it, a
// piece of 64 columns each, and where there are few such pieces the blocks of a cluster divide k. The product is
// turned round, y^T = W^T x^T: 64 columns of W are wgmma's M, and the rows are its N, 8, 16, 32 or 64.
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/dependent.h"
#include "optimized/hopper/ring.h"
#include "optimized/hopper/wgmma.h"
#include "optimized/linear/maps.cuh"
#include "optimized/linear/tiles.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int columns = 64;  // of W, a block
constexpr int depth = 64;    // of k, a stage: as wide as the swizzle
constexpr int step = 16;     // of k, an instruction
constexpr int stages = 5;
constexpr int consumers = 128;  // threads: a warpgroup
constexpr int threads = consumers + warp_size;
constexpr int most_blocks = 8;  // of a cluster
constexpr Swizzle wide = Swizzle::bytes_128;

template <int rows>
struct Memory {
    struct Stage {
        alignas(1024) bf16 w[columns * depth];  // [n, k] or [k, n]
        alignas(1024) bf16 x[rows * depth];     // [row, k]
    };
    Stage stage[stages];
    float sums[rows][columns];  // over this block's k
    TilesBefore before;
    Mbarrier full[stages];   // the producer's arrival and the stage's bytes
    Mbarrier empty[stages];  // an arrival a consumer warp
};

using Turn = RingTurn<stages>;

struct Work {
    int across;      // pieces of 64 columns of a matrix
    int first, end;  // of this block's k, in stages
    int tiles;       // of all matrices
    bool one_box;    // x's rows follow each other
    const Linear& call;

    __device__ Tile tile(const TilesBefore& before, int number) const {
        if (!one_box) return tile_of(before, call, number, across, columns);
        return {number / across, 0, static_cast<int>(call.T), number % across * columns};
    }
};

// One warp. Coordinates: {k, row, h} of x; {k, n, h} or {n, k, h} of W.
template <int rows, bool k_side_by_side>
__device__ void produce(Memory<rows>& memory, const TensorMap& x, const TensorMap& w, const Work& work, int number,
                        int clusters) {
    Turn turn;
    for (; number < work.tiles; number += clusters) {
        const Tile tile = work.tile(memory.before, number);
        for (int at = work.first; at < work.end; ++at, turn.next()) {
            auto& stage = memory.stage[turn.stage];
            Mbarrier& full = memory.full[turn.stage];
            const int k = at * depth;
            if (lane_id() == 0) {
                mbarrier_wait_in_block(memory.empty[turn.stage], turn.parity ^ 1);
                mbarrier_arrive_expect(full, static_cast<int>(sizeof stage.w + sizeof stage.x));
                if constexpr (k_side_by_side)
                    tma_load(stage.w, w, {k, tile.column, tile.h}, full);
                else
                    tma_load(stage.w, w, {tile.column, k, tile.h}, full);
                if (work.one_box) tma_load(stage.x, x, {k, 0, tile.h}, full);
            }
            if (work.one_box) continue;
            __syncwarp();
            // Past the tile's last row, that one again: nobody stores what becomes of it.
            for (int r = lane_id(); r < rows; r += warp_size) {
                const auto row = x_row_of(work.call, tile.row + (r < tile.rows ? r : tile.rows - 1));
                tma_load(stage.x + r * depth, x, {k, static_cast<int>(row), tile.h}, full);
            }
        }
    }
}

// A warpgroup: y^T [64 columns, rows] over this block's k.
template <int rows, bool k_side_by_side>
__device__ void multiply(Memory<rows>& memory, float (&sums)[rows / 2], Turn& turn, const Work& work) {
    constexpr Form form{.a_is_mn_major = !k_side_by_side};
    constexpr int w_step = k_side_by_side ? step * 2 : step * columns * 2;  // bytes
    const auto release = [&](int stage) {
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(memory.empty[stage]);
    };
    int before = 0;
    for (int at = work.first; at < work.end; ++at, turn.next()) {
        mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
        const auto& stage = memory.stage[turn.stage];
        const Descriptor w = k_side_by_side ? k_major(stage.w, wide) : mn_major(stage.w, sizeof stage.w, wide);
        const Descriptor x = k_major(stage.x, wide);
        wgmma_fence();
#pragma unroll
        for (int part = 0; part < depth / step; ++part)
            wgmma<bf16, form>(sums, advanced(w, part * w_step), advanced(x, part * step * 2),
                              at > work.first || part > 0);
        wgmma_commit();
        if (at > work.first) {  // the products of the stage before are done
            wgmma_wait<1>();
            release(before);
        }
        before = turn.stage;
    }
    wgmma_wait<0>();
    hold(sums);
    release(before);
}

// Of the cluster's blocks, in their order; each stores a share of the tile.
template <int rows>
__device__ void add_and_store(Memory<rows>& memory, const Linear& call, const Tile& tile) {
    const int size = cluster_size(), count = tile.rows * columns;
    for (int i = cluster_rank() * threads + static_cast<int>(threadIdx.x); i < count; i += size * threads) {
        const int r = i / columns, c = i % columns;
        float sum = 0;
        for (int rank = 0; rank < size; ++rank) sum += *of_block(&memory.sums[r][c], rank);
        if (tile.column + c < call.N) store_y(call, tile.h, tile.row + r, tile.column + c, sum);
    }
}

template <int rows, bool k_side_by_side>
__global__ void __launch_bounds__(threads)
    linear_few_rows(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w,
                    const __grid_constant__ Linear call, int across) {
    auto& memory = shared<Memory<rows>>();
    const int size = cluster_size(), rank = cluster_rank();
    const int number = static_cast<int>(blockIdx.x) / size, clusters = static_cast<int>(gridDim.x) / size;
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages; ++s) {
            mbarrier_init(memory.full[s], 1);
            mbarrier_init(memory.empty[s], consumers / warp_size);
        }
        fence_mbarrier_init();
    }
    wait_for_previous_kernel();
    const bool one_box = call.first_row == nullptr;
    if (!one_box && warp_id() == 1) count_tiles(memory.before, call, rows);
    __syncthreads();
    const int in_k = static_cast<int>((call.K + depth - 1) / depth), heads = static_cast<int>(call.heads);
    const Work work{across,
                    rank * in_k / size,
                    (rank + 1) * in_k / size,
                    (one_box ? heads : memory.before.of[heads]) * across,
                    one_box,
                    call};
    if (warp_id() == consumers / warp_size) {
        produce<rows, k_side_by_side>(memory, x, w, work, number, clusters);
        __syncwarp();
    } else {
        Turn turn;
        for (int i = number; i < work.tiles; i += clusters) {
            float sums[rows / 2];
            multiply<rows, k_side_by_side>(memory, sums, turn, work);
            const Tile tile = work.tile(memory.before, i);
#pragma unroll
            for (int j = 0; j < rows / 2; ++j) {
                const int c = wgmma_row(static_cast<int>(threadIdx.x), j);
                const int r = wgmma_column(static_cast<int>(threadIdx.x), j);
                if (size > 1)
                    memory.sums[r][c] = sums[j];
                else if (r < tile.rows && tile.column + c < call.N)
                    store_y(call, tile.h, tile.row + r, tile.column + c, sums[j]);
            }
        }
    }
    if (size == 1) return;
    cluster_sync();
    if (number < work.tiles) add_and_store(memory, call, work.tile(memory.before, number));
    cluster_sync();  // others still read this block's sums
}

// Blocks of a cluster: so many that the whole card reads, each 4 stages at least.
int blocks_of_cluster(std::int64_t tiles, std::int64_t K) {
    int blocks = 1;
    while (blocks < most_blocks && tiles * blocks < multiprocessors && K >= 2 * blocks * 4 * depth) blocks *= 2;
    return blocks;
}

template <int rows, bool k_side_by_side>
void start(const Linear& call) {
    const bool grouped = call.first_row != nullptr;
    constexpr std::int64_t anywhere = std::int64_t{1} << 30;  // rows of x, which the host does not know
    const std::int64_t across = blocks_for(call.N, columns), tiles = across * call.heads;
    const int cluster = blocks_of_cluster(tiles, call.K);
    constexpr std::int64_t at_once = (227 << 10) / (sizeof(Memory<rows>) + 1024);  // in a multiprocessor
    const std::int64_t clusters = cluster == 1 ? std::min(tiles, at_once * multiprocessors) : tiles;
    launch("linear_few_rows", linear_few_rows<rows, k_side_by_side>,
           {.blocks = clusters * cluster,
            .threads = threads,
            .shared_bytes = sizeof(Memory<rows>),
            .stream = call.stream,
            .cluster = cluster,
            .overlaps_previous = true},
           map_of("x", call.x, call.K, grouped ? anywhere : call.T, call.heads, call.x_row, call.x_head,
                  grouped ? 1 : rows),
           map_of_w<columns, k_side_by_side>(call), call, static_cast<int>(across));
}

template <int rows>
void start(const Linear& call) {
    return call.w_k == 1 ? start<rows, true>(call) : start<rows, false>(call);
}

}  // namespace

void linear_level_3_of_few_rows(const Linear& call) {
    if (call.T <= 8) return start<8>(call);
    if (call.T <= 16) return start<16>(call);
    if (call.T <= 32) return start<32>(call);
    start<64>(call);
}

}  // namespace dsa
