// Level 3 for e4m3. wgmma reads e4m3 operands from shared memory only with k side by side, and W lies with n side by
// side: so W^T is the operand in registers. ldmatrix transposes pairs of bytes and one byte permutation a register
// does the rest; the rows of a product are then columns n of W, its columns are rows of x, gathered as in
// level_3_rows_in_groups.cu. A tile is 192 rows of x by 128 columns of W, a warpgroup's are 64 of the columns. Of
// each 128 of k the sum is made first, then scaled and added.
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/bytes.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/matrix.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/ring.h"
#include "optimized/hopper/wgmma.h"
#include "optimized/linear/gather.cuh"
#include "optimized/linear/maps.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int consumers = 2;             // warpgroups
constexpr int columns = 64 * consumers;  // of W, a tile
constexpr int rows = 192;                // of x, a tile
constexpr int depth = scale_block;       // of k, a stage
constexpr int step = 32;                 // of k, an instruction
constexpr int steps = depth / step;
constexpr int stages = 5;
constexpr int producers = 128;  // threads
constexpr int turn_of = 1;      // the named barrier at which the first consumer waits for its turn, then the second's
constexpr Swizzle wide = Swizzle::bytes_128;

struct Stage {
    alignas(1024) e4m3 x[rows * depth];     // [row, k]
    alignas(1024) e4m3 w[depth * columns];  // [k, n]
    alignas(16) float scale[rows];          // x's
    float w_scale;
};
struct Memory {
    Stage stage[stages];
    TilesBefore before;
    Mbarrier full[stages];   // the producers' arrivals, one for W's bytes
    Mbarrier empty[stages];  // an arrival a consumer warp
};

using Turn = RingTurn<stages>;

// One warpgroup.
__device__ void produce(Memory& memory, const TensorMap& w, const Linear& call, int across) {
    const int thread = static_cast<int>(threadIdx.x);
    const int k_count = static_cast<int>(call.K), tiles = memory.before.of[call.heads] * across;
    const std::int64_t blocks = (call.K + depth - 1) / depth;
    Turn turn;
    for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
        const Tile tile = tile_of(memory.before, call, number, across, columns);
        const Gather<e4m3, rows> x(call, call.x_e4m3, tile);
        constexpr int rounds = (rows + producers - 1) / producers;
        const float* scale[rounds];  // of this thread's rows
#pragma unroll
        for (int i = 0; i < rounds; ++i) {
            const int row = thread + i * producers;
            scale[i] = call.x_scale + x_row_of(call, tile.row + (row < tile.rows ? row : tile.rows - 1)) * blocks;
        }
        for (int k = 0; k < k_count; k += depth, turn.next()) {
            Stage& stage = memory.stage[turn.stage];
            Mbarrier& full = memory.full[turn.stage];
            mbarrier_wait_in_block(memory.empty[turn.stage], turn.parity ^ 1);
            if (thread == 0) {
                mbarrier_arrive_expect(full, static_cast<int>(sizeof stage.w));
                tma_load(stage.w, w, {tile.column, k, tile.h}, full);
            }
            x.bring(stage.x, k);
#pragma unroll
            for (int i = 0; i < rounds; ++i)
                if (thread + i * producers < rows) cp_async<4>(&stage.scale[thread + i * producers], scale[i]++);
            if (thread == producers - 1) cp_async<4>(&stage.w_scale, &w_scale_at(call, tile.h, k, tile.column));
            cp_async_arrive(full);
        }
    }
}

// Where a lane's row of W lies for ldmatrix, in a tile [k, n]: matrices 0 and 1 are 16 of k, 2 and 3 the next 16.
// Register m of lane 4 g + p must hold two of k = 4 p ... 4 p + 3; which two are in the first matrix changes from p =
// 1 to p = 2, so that the eight rows of a matrix lie in different banks.
__device__ int w_row(int lane) {
    const int matrix = lane / 8, p = lane % 8 / 2;
    return matrix / 2 * 16 + 4 * p + lane % 2 + ((matrix % 2 != 0) != (p >= 2) ? 2 : 0);
}
// W^T's fragment of 16 n by 32 k. Row g of it is n = 2 g, row g + 8 is 2 g + 1.
__device__ void load_w(std::uint32_t (&a)[4], const unsigned char* at, bool upper) {
    std::uint32_t r[4];  // bytes {k, n}, {k, n + 1}, {k + 1, n}, {k + 1, n + 1}
    load_matrices<true>(r, at);
    const std::uint32_t even = upper ? 0x2064 : 0x6420, odd = upper ? 0x3175 : 0x7531;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        a[2 * half] = pick_bytes(r[2 * half], r[2 * half + 1], even);
        a[2 * half + 1] = pick_bytes(r[2 * half], r[2 * half + 1], odd);
    }
}

// y's tile from sums[4 j + i]: row 8 j + 2 p + i % 2 of x, column 2 g + i / 2 of a warp's 16.
template <int some>
__device__ void store(const Linear& call, const float (&sums)[some / 2], const Tile& tile, int consumer) {
    const int thread = static_cast<int>(threadIdx.x), lane = lane_id();
    const bool pairs = call.y != nullptr && reinterpret_cast<std::uintptr_t>(call.y) % 4 == 0 &&
                       call.y_row % 2 == 0 && call.y_head % 2 == 0;
    const int n = tile.column + consumer * 64 + thread / 32 % 4 * 16 + lane / 4 * 2;
    if (n >= call.N) return;  // N is even: a multiple of 16
#pragma unroll
    for (int i = 0; i < some / 2; i += 4)
#pragma unroll
        for (int second = 0; second < 2; ++second) {
            const int r = i * 2 + lane % 4 * 2 + second;
            const float left = sums[i + second], right = sums[i + second + 2];
            if (r >= tile.rows) continue;
            if (pairs) {
                auto* two =
                    reinterpret_cast<std::uint32_t*>(call.y + tile.h * call.y_head + (tile.row + r) * call.y_row + n);
                *two = to_bf16_pair(left, right);
            } else {
                store_y(call, tile.h, tile.row + r, n, left);
                store_y(call, tile.h, tile.row + r, n + 1, right);
            }
        }
}

struct alignas(8) Pair {
    float first, second;
};

// The tile's first `some` rows. is_last: of this block's tiles
template <int some>
__device__ void multiply(Memory& memory, const Linear& call, const Tile& tile, bool is_last, Turn& turn,
                         int consumer) {
    const int lane = lane_id(), k_count = static_cast<int>(call.K);
    const bool upper = lane % 4 >= 2;
    const auto piece = static_cast<std::uint32_t>(consumer * 4 + warp_id() % 4);
    const std::uint32_t w_at =
        swizzled_offset(static_cast<std::uint32_t>(w_row(lane)) * columns + piece * 16, wide);  // in any 32 of k
    float sums[some / 2] = {};
    for (int k = 0; k < k_count; k += depth, turn.next()) {
        const Stage& stage = memory.stage[turn.stage];
        mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
        fence_proxy_async_shared();  // cp.async writes as threads do
        std::uint32_t a[steps][4];
        const unsigned char* w = reinterpret_cast<const unsigned char*>(stage.w) + w_at;
#pragma unroll
        for (int i = 0; i < steps; ++i) load_w(a[i], w + i * step * columns, upper);
        const Descriptor x = k_major(stage.x, wide);
        float products[some / 2];
        // The warpgroups take turns, so that the tensor cores work for one while the other scales and adds: left
        // alone, both would multiply together and then add together. The other begins when the last step is left to
        // do.
        barrier_sync(turn_of + consumer, 128 * consumers);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < steps; ++i) {
            wgmma<e4m3>(products, a[i], advanced(x, i * step), i > 0);
            if (i >= steps - 2) wgmma_commit();
        }
        wgmma_wait<1>();
        if (!(is_last && k + depth >= k_count && consumer == consumers - 1))
            barrier_arrive(turn_of + (consumer ^ 1), 128 * consumers);
        wgmma_wait<0>();
        hold(products);
#pragma unroll
        for (int i = 0; i < some / 2; i += 4) {
            const Pair scale = *reinterpret_cast<const Pair*>(&stage.scale[i * 2 + lane % 4 * 2]);
            const float both[2] = {stage.w_scale * scale.first, stage.w_scale * scale.second};
#pragma unroll
            for (int n = 0; n < 4; ++n) sums[i + n] += products[i + n] * both[n % 2];
        }
        __syncwarp();
        if (lane == 0) mbarrier_arrive(memory.empty[turn.stage]);
    }
    store<some>(call, sums, tile, consumer);
}

__device__ void consume(Memory& memory, const Linear& call, int across, int consumer) {
    const int tiles = memory.before.of[call.heads] * across, blocks = static_cast<int>(gridDim.x);
    Turn turn;
    int number = static_cast<int>(blockIdx.x);
    if (number < tiles && consumer == consumers - 1) barrier_arrive(turn_of, 128 * consumers);  // the first begins
    for (; number < tiles; number += blocks) {
        const Tile tile = tile_of(memory.before, call, number, across, columns);
        const bool is_last = number + blocks >= tiles;
        if (tile.rows > 128)
            multiply<192>(memory, call, tile, is_last, turn, consumer);
        else if (tile.rows > 64)
            multiply<128>(memory, call, tile, is_last, turn, consumer);
        else if (tile.rows > 16)
            multiply<64>(memory, call, tile, is_last, turn, consumer);
        else
            multiply<16>(memory, call, tile, is_last, turn, consumer);
    }
}

__global__ void __launch_bounds__(producers + 128 * consumers, 1)
    linear_e4m3(const __grid_constant__ TensorMap w, const __grid_constant__ Linear call, int across) {
    auto& memory = shared<Memory>();
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages; ++s) {
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
        produce(memory, w, call, across);
    } else {
        take_registers<224>();
        consume(memory, call, across, warpgroup - 1);
    }
}

}  // namespace

void linear_level_3_of_e4m3(const Linear& call) {
    launch("linear_e4m3", linear_e4m3,
           {.blocks = multiprocessors,
            .threads = producers + 128 * consumers,
            .shared_bytes = sizeof(Memory),
            .stream = call.stream},
           map_of("W", call.w_e4m3, call.N, call.K, call.heads, call.w_k, call.w_head, depth), call,
           static_cast<int>(blocks_for(call.N, columns)));
}

}  // namespace dsa
