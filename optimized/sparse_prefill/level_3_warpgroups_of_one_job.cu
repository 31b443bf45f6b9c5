// Level 3. The products are wgmma's, and each of a block's four warpgroups has one job: one gathers tiles of latents
// into two stages, one scores them and makes p, two weigh, half of the value's columns each. So the softmax of a tile
// overlaps p v of the one before and the gather of the next. Blocks stay, and take query after query: the first tiles
// of the next query come while the last one is stored.
#include "optimized/attention/latent_tile.cuh"
#include "optimized/attention/selected.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/tma.h"
#include "optimized/sparse_prefill/op.h"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace latent_tile;

constexpr int warpgroup = 128;
constexpr int threads = 4 * warpgroup;
constexpr int stages = 2;
constexpr int multiprocessors = 132;

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

struct Work {
    const bf16* kv;            // [S, d]
    const std::int32_t* kept;  // [T, k]
    AttentionResult result;
    std::int64_t T, H, k;

    __device__ std::int64_t groups() const { return (H + heads - 1) / heads; }  // of heads, a query
    __device__ std::int64_t items() const { return T * groups(); }
    __device__ std::int64_t query(std::int64_t item) const { return item / groups(); }
    __device__ std::int64_t first_head(std::int64_t item) const { return item % groups() * heads; }
    __device__ std::int64_t first_row(std::int64_t item) const { return query(item) * H + first_head(item); }
    __device__ int tiles() const { return k == 0 ? 1 : static_cast<int>((k + keys - 1) / keys); }
};

// The tile that comes next, counted over all queries of a block.
struct Turn {
    int stage = 0, parity = 0;
    __device__ void next() {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

// Warp w brings rows 16 w ... 16 w + 15 of a tile, 8 lanes a row.
__device__ void gather(Shared& memory, const Work& work, const TensorMap& q) {
    constexpr int rows_each = keys / 4, rows_at_once = 4;
    const int warp = warp_id(), lane = lane_id();
    const int tiles = work.tiles();
    const int first_place = place_of_piece(warp * rows_each + lane / 8, lane % 8);
    const int other_half = (first_place & 64) == 0 ? 64 : -64;
    Turn turn;
    int round = 0;
    for (std::int64_t item = blockIdx.x; item < work.items(); item += gridDim.x, ++round) {
        const std::int32_t* kept = work.kept + work.query(item) * work.k;  // [k]
        const auto index = [&](int tile) {
            const std::int64_t slot = std::int64_t{tile} * keys + warp * rows_each + lane % rows_each;
            return tile < tiles && slot < work.k ? kept[slot] : -1;
        };
        if (threadIdx.x == 0) {
            mbarrier_wait(memory.q_empty, round % 2 ^ 1);
            mbarrier_arrive_expect(memory.q_full, sizeof(Rows));
            for (int panel = 0; panel < panels; ++panel)
                tma_load(&memory.q.panel[panel], q, {panel * panel_columns, static_cast<int>(work.first_row(item))},
                         memory.q_full);
        }
        std::int32_t position = index(0);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            Stage& stage = memory.stage[turn.stage];
            const std::int32_t next = index(tile + 1);
            const std::uint32_t valid = __ballot_sync(all_lanes, position >= 0);
            mbarrier_wait(memory.empty[turn.stage], turn.parity ^ 1);
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
            fence_proxy_async();
            __syncwarp();
            if (lane == 0) mbarrier_arrive(memory.full[turn.stage]);
            position = next;
        }
    }
}

// What is told of a query when its last tile is scored.
__device__ void conclude(const Work& work, const RunningSoftmax& softmax, std::int64_t item, Stage& stage) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        const float sum = softmax.total(row);
        const int r = wgmma_row(static_cast<int>(threadIdx.x), 2 * row);
        const std::int64_t head = work.first_head(item) + r;
        const float reference = softmax.reference[row] * work.result.scale;
        if (lane_id() % 4 != 0) continue;
        const bool counts = head < work.H && reference != minus_infinity();
        stage.one_over[r] = counts ? 1.0F / denominator(work.result, head, reference, sum) : 0.0F;
        if (head >= work.H) continue;
        const std::int64_t at = work.first_row(item) + r;
        work.result.lse[at] = told_lse(work.result, reference, sum);
        if (work.result.max_logit != nullptr) work.result.max_logit[at] = softmax.largest[row] * work.result.scale;
    }
}

__device__ void score_tiles(Shared& memory, const Work& work) {
    constexpr float one_over_ln2 = 1.44269504088896340736F;
    constexpr int scorers = 1;  // named barrier
    const float to_log2 = work.result.scale * one_over_ln2;
    const int warp = warp_id() % 4, tiles = work.tiles();
    Turn turn;
    int round = 0;
    for (std::int64_t item = blockIdx.x; item < work.items(); item += gridDim.x, ++round) {
        RunningSoftmax softmax;
        mbarrier_wait(memory.q_full, round % 2);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            Stage& stage = memory.stage[turn.stage];
            mbarrier_wait(memory.full[turn.stage], turn.parity);
            float s[keys / 2];
            wgmma_fence();
            score(s, memory.q, stage.latents);
            wgmma_commit();
            wgmma_wait<0>();
            hold(s);
            const std::uint32_t low = stage.valid[0] | stage.valid[1] << 16;
            const std::uint32_t high = stage.valid[2] | stage.valid[3] << 16;
            const bool rises = softmax.step(s, low, high, to_log2);
            barrier_sync(scorers, warpgroup);  // all four warps' products have read the last panel
            store_weights(s, stage.latents.weights());
            if (lane_id() == 0) stage.rises[warp] = rises ? 1 : 0;
            if (rises && lane_id() % 4 == 0)
#pragma unroll
                for (int row = 0; row < 2; ++row)
                    stage.factor[wgmma_row(static_cast<int>(threadIdx.x), 2 * row)] = softmax.factor[row];
            if (tile + 1 == tiles) conclude(work, softmax, item, stage);
            fence_proxy_async();
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
    for (std::int64_t item = blockIdx.x; item < work.items(); item += gridDim.x) {
        float out[2][d_v / 8];  // [2, heads, d_v / 4]
        float one_over[2];
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            Stage& stage = memory.stage[turn.stage];
            mbarrier_wait(memory.full[turn.stage], turn.parity);
            mbarrier_wait(memory.scored[turn.stage], turn.parity);
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
                weigh(out[part], stage.latents.weights(), &stage.latents.panel[(2 * half + part) * value_panels / 4],
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
        for (int row = 0; row < 2; ++row) {
            if (work.first_head(item) + rows[row] >= work.H) continue;
            bf16* to = work.result.out + (work.first_row(item) + rows[row]) * d_v + half * d_v / 2 +
                       wgmma_column(static_cast<int>(threadIdx.x), 0);
#pragma unroll
            for (int part = 0; part < 2; ++part)
#pragma unroll
                for (int i = 2 * row; i < d_v / 8; i += 4)
                    *reinterpret_cast<std::uint32_t*>(to + part * d_v / 4 + i / 4 * 8) =
                        to_bf16_pair(out[part][i] * one_over[row], out[part][i + 1] * one_over[row]);
        }
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

std::string sparse_prefill_level_3_declines(const SparsePrefill& call) {
    if (call.d != d || call.d_v != d_v)
        return sentence("a latent has ", d, " numbers, of which ", d_v, " are the value; here ", call.d, " and ",
                        call.d_v);
    if (!(call.result.scale > 0)) return sentence("the scale must be positive; it is ", call.result.scale);
    return {};
}

void sparse_prefill_level_3(const SparsePrefill& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_prefill_workspace(call));
    auto* kept = static_cast<std::int32_t*>(call.workspace);  // [T, k]
    keep_selected(call.indices, kept, call.T, call.k, call.S, call.stream);
    const Work work{call.kv, kept, call.result, call.T, call.H, call.k};
    const std::int64_t items = call.T * blocks_for(call.H, heads);
    if (items == 0) return;
    launch("sparse_prefill_attend", attend,
           {.blocks = std::min<std::int64_t>(items, multiprocessors),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream},
           work, matrix_map("q", call.q, call.T * call.H, d, d, heads, panel_columns, wide));
}

}  // namespace dsa
