// Level 3. The products are wgmma's, and each of a block's four warpgroups has one job: one gathers tiles of latents
// into two stages, one scores them and makes p, two weigh, half of the value's columns each. So the softmax of a tile
// overlaps p v of the one before and the gather of the next. Blocks stay, and take query after query: the first tiles
// of the next query come while the last one is stored.
#include "optimized/attention/selected.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/ring.h"
#include "optimized/hopper/tma.h"
#include "optimized/sparse_prefill/work.cuh"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace latent_tile;

constexpr int threads = 4 * warpgroup;
constexpr int stages = 2;

struct Stage {
    Rows latents;
    std::uint32_t valid[4];  // bit i of word w: key 16 w + i counts
    std::uint32_t rises[4];  // whether rows of warp w are rescaled
    float factor[heads];     // by what
    float one_over[heads];   // after a query's last tile: what its sums are multiplied by
};
struct Shared {
    Rows q;
    Stage stage[stages];
    Mbarrier q_full, q_empty;
    Mbarrier full[stages];    // latents are there
    Mbarrier scored[stages];  // p is there
    Mbarrier empty[stages];   // p v is done
};

// The tile that comes next, counted over all queries of a block.
using Turn = RingTurn<stages>;

// Warp w brings rows 16 w ... 16 w + 15 of a tile, 8 lanes a row.
__device__ void gather(Shared& memory, const Work& work, const TensorMap& q) {
    constexpr int rows_each = keys / 4, rows_at_once = 4;
    const int warp = warp_id(), lane = lane_id();
    const int tiles = work.tiles();
    const int first_place = place_of_piece(warp * rows_each + lane / 8, lane % 8);
    const int other_half = (first_place & 64) == 0 ? 64 : -64;
    Turn turn;
    int round = 0;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x), ++round) {
        const std::int32_t* kept = work.kept + std::int64_t{work.query(item)} * work.k;  // [k]
        const auto index = [&](int tile) {
            const int slot = tile * keys + warp * rows_each + lane % rows_each;
            return tile < tiles && slot < work.k ? kept[slot] : -1;
        };
        if (threadIdx.x == 0) {
            mbarrier_wait_in_block(memory.q_empty, round % 2 ^ 1);
            mbarrier_arrive_expect(memory.q_full, sizeof(Rows));
            for (int panel = 0; panel < panels; ++panel)
                tma_load(&memory.q.panel[panel], q, {panel * panel_columns, work.first_row(item)}, memory.q_full);
        }
        std::int32_t position = index(0);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            Stage& stage = memory.stage[turn.stage];
            const std::int32_t next = index(tile + 1);
            const std::uint32_t valid = __ballot_sync(all_lanes, position >= 0);
            mbarrier_wait_in_block(memory.empty[turn.stage], turn.parity ^ 1);
            if (lane == 0) stage.valid[warp] = valid & 0xffffU;
            auto* to = reinterpret_cast<unsigned char*>(&stage.latents) + first_place;
#pragma unroll
            for (int r = 0; r < rows_each; r += rows_at_once) {
                const std::int32_t at = __shfl_sync(all_lanes, position, r + lane / 8);
                const bf16* from = work.kv + (at < 0 ? 0 : std::int64_t{at} * d) + lane % 8 * 8;
                // Four rows on, the swizzle's third bit is the other one.
                unsigned char* row = to + r * row_bytes + (r % 8 == 4 ? other_half : 0);
#pragma unroll
                for (int panel = 0; panel < panels; ++panel)
                    cp_async<16>(row + panel * sizeof(Panel), from + panel * panel_columns, at < 0 ? 0 : 16);
            }
            cp_async_commit();
            cp_async_wait<0>();
            fence_proxy_async_shared();
            __syncwarp();
            if (lane == 0) mbarrier_arrive(memory.full[turn.stage]);
            position = next;
        }
    }
}

__device__ void score_tiles(Shared& memory, const Work& work) {
    constexpr int scorers = 1;  // named barrier
    const float to_log2 = work.result.scale * one_over_ln2;
    const int warp = warp_id() % 4, tiles = work.tiles();
    Turn turn;
    int round = 0;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x), ++round) {
        RunningSoftmax softmax;
        mbarrier_wait_in_block(memory.q_full, round % 2);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            Stage& stage = memory.stage[turn.stage];
            mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
            float s[keys / 2];
            wgmma_fence();
            score<panels>(s, memory.q.panel, stage.latents.panel, false);
            wgmma_commit();
            wgmma_wait<0>();
            hold(s);
            const std::uint32_t valid[2] = {stage.valid[0] | stage.valid[1] << 16,
                                            stage.valid[2] | stage.valid[3] << 16};
            const bool rises = softmax.step(s, valid, to_log2);
            barrier_sync(scorers, warpgroup);  // all four warps' products have read the last panel
            store_weights<keys / 2>(s, &stage.latents.weights());
            if (lane_id() == 0) stage.rises[warp] = rises ? 1 : 0;
            if (rises && lane_id() % 4 == 0)
#pragma unroll
                for (int row = 0; row < 2; ++row)
                    stage.factor[wgmma_row(static_cast<int>(threadIdx.x), 2 * row)] = softmax.factor[row];
            if (tile + 1 == tiles) conclude(work, softmax, item, stage.one_over);
            fence_proxy_async_shared();
            __syncwarp();
            if (lane_id() != 0) continue;
            mbarrier_arrive(memory.scored[turn.stage]);
            if (tile + 1 == tiles) mbarrier_arrive(memory.q_empty);
        }
    }
}

// half: of the value's columns.
__device__ void weigh_tiles(Shared& memory, const Work& work, int half) {
    const int warp = warp_id() % 4, tiles = work.tiles();
    const int rows[2] = {wgmma_row(static_cast<int>(threadIdx.x), 0), wgmma_row(static_cast<int>(threadIdx.x), 2)};
    Turn turn;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x)) {
        float out[2][d_v / 8];  // [2, heads, d_v / 4]
        float one_over[2];
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            Stage& stage = memory.stage[turn.stage];
            mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
            mbarrier_wait_in_block(memory.scored[turn.stage], turn.parity);
            if (tile > 0 && stage.rises[warp] != 0) {
                const float factor[2] = {stage.factor[rows[0]], stage.factor[rows[1]]};
#pragma unroll
                for (int i = 0; i < d_v / 8; ++i)
#pragma unroll
                    for (float(&part)[d_v / 8] : out) part[i] *= factor[i / 2 % 2];
            }
#pragma unroll
            for (float(&part)[d_v / 8] : out) hold(part);
            wgmma_fence();
#pragma unroll
            for (int part = 0; part < 2; ++part)
                weigh(out[part], &stage.latents.weights(), &stage.latents.panel[(2 * half + part) * value_panels / 4],
                      tile > 0);
            wgmma_commit();
            wgmma_wait<0>();
#pragma unroll
            for (float(&part)[d_v / 8] : out) hold(part);
            if (tile + 1 == tiles)
                for (int row = 0; row < 2; ++row) one_over[row] = stage.one_over[rows[row]];
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.empty[turn.stage]);
        }
#pragma unroll
        for (int part = 0; part < 2; ++part) store_out(work, item, out[part], one_over, (2 * half + part) * d_v / 4);
    }
}

__global__ void __launch_bounds__(threads, 1) attend(Work work, const __grid_constant__ TensorMap q) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.q_full, 1);
        mbarrier_init(memory.q_empty, 4);
        for (int s = 0; s < stages; ++s) {
            mbarrier_init(memory.full[s], 4);
            mbarrier_init(memory.scored[s], 4);
            mbarrier_init(memory.empty[s], 8);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int job = static_cast<int>(threadIdx.x) / warpgroup;
    if (job == 0) {
        give_back_registers<40>();
        gather(memory, work, q);
    } else if (job == 1) {
        take_registers<136>();
        score_tiles(memory, work);
    } else {
        take_registers<168>();
        weigh_tiles(memory, work, job - 2);
    }
}

}  // namespace

std::string sparse_prefill_level_3_declines(const SparsePrefill& call) { return declines_latents(call); }

void sparse_prefill_level_3(const SparsePrefill& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_prefill_workspace_1(call));
    auto* kept = static_cast<std::int32_t*>(call.workspace);  // [T, k]
    keep_selected(call.indices, kept, call.T, call.k, call.S, call.stream);
    const Work work = work_of(call, kept);
    if (work.items == 0) return;
    launch("sparse_prefill_attend", attend,
           {.blocks = std::min(work.items, multiprocessors),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream},
           work, matrix_map("q", call.q, call.T * call.H, d, d, heads, panel_columns, wide));
}

}  // namespace dsa
