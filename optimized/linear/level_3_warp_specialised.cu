// Level 3. A producer warp brings tiles by tensor copies into a ring of stages, and two warpgroups multiply them by
// wgmma: 128 rows of y a block, 64 a warpgroup, by 256, 128 or 64 columns. W is multiplied as it lies, k or n side by
// side. What copies bring from outside of x and W is zero; rows and columns outside of y are not stored.
#include "optimized/hopper/mbarrier.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/ring.h"
#include "optimized/hopper/warp.h"
#include "optimized/linear/fragments.cuh"
#include "optimized/linear/maps.cuh"
#include "optimized/linear/tiles.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int consumers = 2;          // warpgroups
constexpr int rows = 64 * consumers;  // of y, a block
constexpr int depth = 64;             // of k, a stage: as wide as the swizzle
constexpr int step = 16;              // of k, an instruction
constexpr int few_rows = 64;          // are W's bytes' time, not the products'
constexpr Swizzle wide = Swizzle::bytes_128;
template <int columns>
constexpr int stages = columns == 256 ? 4 : 6;

template <int columns>
struct Memory {
    struct Stage {
        alignas(1024) bf16 x[rows * depth];     // [row, k]
        alignas(1024) bf16 w[columns * depth];  // [n, k], or in panels of 64 columns [panel, k, n]
    };
    Stage stage[stages<columns>];
    Mbarrier full[stages<columns>];   // the producer's arrival and the stage's bytes
    Mbarrier empty[stages<columns>];  // an arrival a consumer warp
};

template <int columns>
using Turn = RingTurn<stages<columns>>;

// One lane of one warp. Coordinates: {k, row, h} of x; {k, n, h} or {n, k, h} of W.
template <int columns, bool k_side_by_side>
__device__ void produce(Memory<columns>& memory, const TensorMap& x, const TensorMap& w, int row, int column, int h,
                        int k) {
    Turn<columns> turn;
    for (int at = 0; at < k; at += depth, turn.next()) {
        auto& stage = memory.stage[turn.stage];
        Mbarrier& full = memory.full[turn.stage];
        mbarrier_wait_in_block(memory.empty[turn.stage], turn.parity ^ 1);
        mbarrier_arrive_expect(full, static_cast<int>(sizeof stage.x + sizeof stage.w));
        tma_load(stage.x, x, {at, row, h}, full);
        if constexpr (k_side_by_side) {
            tma_load(stage.w, w, {at, column, h}, full);
        } else {
#pragma unroll
            for (int panel = 0; panel < columns / 64; ++panel)
                tma_load(stage.w + panel * 64 * depth, w, {column + panel * 64, at, h}, full);
        }
    }
}

// One warpgroup's 64 rows of y.
template <int columns, bool k_side_by_side>
__device__ void consume(Memory<columns>& memory, float (&sums)[columns / 2], int consumer, int k) {
    constexpr Form form{.b_is_mn_major = !k_side_by_side};
    constexpr int w_step = k_side_by_side ? step * 2 : step * 128;  // bytes
    Turn<columns> turn, before;
    for (int at = 0; at < k; at += depth, turn.next()) {
        mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
        const auto& stage = memory.stage[turn.stage];
        const Descriptor x = k_major(stage.x + consumer * 64 * depth, wide);
        const Descriptor w = k_side_by_side ? k_major(stage.w, wide) : mn_major(stage.w, 64 * depth * 2, wide);
        wgmma_fence();
#pragma unroll
        for (int part = 0; part < depth / step; ++part)
            wgmma<bf16, form>(sums, advanced(x, part * step * 2), advanced(w, part * w_step), at > 0 || part > 0);
        wgmma_commit();
        if (at > 0) {  // the products of the stage before are done
            wgmma_wait<1>();
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.empty[before.stage]);
            before.next();
        }
    }
    wgmma_wait<0>();
    hold(sums);
}

// blocks: T / 128 by N / columns by heads
template <int columns, bool k_side_by_side>
__global__ void __launch_bounds__(128 * (1 + consumers), 1)
    linear_ring(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w,
                const __grid_constant__ Linear call) {
    auto& memory = shared<Memory<columns>>();
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages<columns>; ++s) {
            mbarrier_init(memory.full[s], 1);
            mbarrier_init(memory.empty[s], 4 * consumers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int row = static_cast<int>(blockIdx.x) * rows, column = static_cast<int>(blockIdx.y) * columns;
    const int h = static_cast<int>(blockIdx.z), k = static_cast<int>(call.K);
    const int warpgroup = static_cast<int>(threadIdx.x) / 128;
    if (warpgroup == 0) {
        give_back_registers<40>();
        if (warp_id() == 0 && elect_one()) produce<columns, k_side_by_side>(memory, x, w, row, column, h, k);
    } else {
        take_registers<232>();
        float sums[columns / 2];
        consume<columns, k_side_by_side>(memory, sums, warpgroup - 1, k);
        const int mine = row + (warpgroup - 1) * 64;
        store_fragments<columns>(call, sums, h, mine, static_cast<int>(call.T) - mine, column);
    }
}

template <int columns, bool k_side_by_side>
void start(const Linear& call) {
    const TensorMap x = map_of("x", call.x, call.K, call.T, call.heads, call.x_row, call.x_head, rows);
    const TensorMap w = map_of_w<columns, k_side_by_side>(call);
    launch("linear_ring", linear_ring<columns, k_side_by_side>,
           {.blocks = blocks_for(call.T, rows),
            .threads = 128 * (1 + consumers),
            .shared_bytes = sizeof(Memory<columns>),
            .stream = call.stream,
            .blocks_y = blocks_for(call.N, columns),
            .blocks_z = call.heads},
           x, w, call);
}

template <int columns>
void start(const Linear& call) {
    return call.w_k == 1 ? start<columns, true>(call) : start<columns, false>(call);
}

}  // namespace

std::string linear_level_3_declines(const Linear& call) {
    if (call.w_e4m3 != nullptr && call.w_n != 1) return "of e4m3 n must lie side by side in W";
    if ((call.first_row != nullptr || call.w_e4m3 != nullptr) && call.heads > most_matrices)
        return sentence("there may be at most ", most_matrices, " groups of rows; there are ", call.heads);
    return linear_level_2_declines(call);
}

void linear_level_3(const Linear& call) {
    if (call.w_e4m3 != nullptr) return linear_level_3_of_e4m3(call);
    if (call.T <= few_rows) return linear_level_3_of_few_rows(call);
    if (call.first_row != nullptr) return linear_level_3_of_groups(call);
    // The widest tile of which there is one for each multiprocessor; few rows are better spread than multiplied fast.
    constexpr std::int64_t enough = 132;  // a block for each multiprocessor
    const auto blocks = [&](int columns) {
        return blocks_for(call.T, rows) * blocks_for(call.N, columns) * call.heads;
    };
    if (call.N > 128 && blocks(256) >= enough) return start<256>(call);
    if (call.N > 64 && blocks(128) >= enough) return start<128>(call);
    start<64>(call);
}

}  // namespace dsa
