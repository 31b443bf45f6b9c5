// Level 3. MQA on wgmma. The keys of a query lie side by side, so tensor copies bring them, and one thread asks for
// them: no warpgroup gathers. Both others score, tiles in turn, and each weighs half of the value's columns of every
// tile, so that the products of one run while the other makes its softmax. Two blocks of a cluster go through the
// same tiles with 64 rows of q each; each block brings half of a tile to both.
//
// A warpgroup's turn, tile j:  q k^T of j | p v of j - 1, p from the other | softmax of j, p for both | p v of j
//
// The maximum goes from tile to tile, and so from one warpgroup to the other.
#include "optimized/dense_attention/fragments.cuh"
#include "optimized/dense_attention/leave.cuh"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/ring.h"
#include "optimized/support/ladder.h"
#include "optimized/support/multiprocessors.h"

namespace dsa {
namespace {

using namespace latent_tile;
using namespace dense_latents;

constexpr int threads = 3 * warpgroup;
constexpr float one_over_ln2 = 1.44269504088896340736F;
constexpr int stages = 3;
constexpr int kept_panels = 2;                // of q, in registers
constexpr int apart = tile_keys * row_bytes;  // of a tile's panels
constexpr int brought = tile_keys / blocks;   // rows of a tile that a block brings
constexpr int second_p = heads * 64;          // where p's keys from 32 on begin

// p takes the place of the rotated columns, whose part is over: [heads, 32] and [heads, 16].
struct alignas(1024) Tile {
    unsigned char at[panels * apart];  // [panels, tile_keys, panel_columns]
    __device__ unsigned char* p() { return at + value_panels * apart; }
};
// What the scorer of a tile tells the other warpgroup.
struct Told {
    std::uint32_t rises[4];  // whether the reference of any row of warp w does
    float reference[heads];  // then, of all of them
};
struct Shared {
    Tile tile[stages];
    Panel q[panels - kept_panels];
    Told told[stages];
    float sum[2][2][heads];  // of p; by turns of items, each warpgroup's
    Mbarrier q_full, q_empty;
    Mbarrier full[stages];    // rows are there
    Mbarrier scored[stages];  // p is there
    Mbarrier empty[stages];   // all p v is done, in both blocks
};

// The tile that comes next, counted over all items of a block.
using Turn = RingTurn<stages>;

// One warp, one lane of which asks.
__device__ void bring(Shared& memory, const Work& work, const TensorMap& q, const TensorMap& kv) {
    const int rank = cluster_rank();
    Turn turn;
    for (int round = 0, item; (item = work.item(round)) >= 0; ++round) {
        const Range range = work.range(item);
        if (lane_id() != 0) continue;
        mbarrier_wait_in_block(memory.q_empty, round % 2 ^ 1);
        mbarrier_arrive_expect(memory.q_full, sizeof memory.q);
        for (int panel = kept_panels; panel < panels; ++panel)
            tma_load(&memory.q[panel - kept_panels], q, {panel * panel_columns, work.first_row(item)}, memory.q_full);
        for (int tile = 0; tile < range.tiles; ++tile, turn.next()) {
            mbarrier_wait(memory.empty[turn.stage], turn.parity ^ 1);
            mbarrier_arrive_expect(memory.full[turn.stage], sizeof(Tile));
            for (int panel = 0; panel < panels; ++panel)
                tma_load_multicast(memory.tile[turn.stage].at + panel * apart + rank * brought * row_bytes, kv,
                                   {panel * panel_columns, range.first + tile * tile_keys + rank * brought},
                                   memory.full[turn.stage], (1U << blocks) - 1);
        }
    }
}

using KeptQ = std::uint32_t[kept_panels * steps][4];

// This thread's part of q's first panels.
__device__ void load_q(KeptQ& q, const Work& work, int item) {
    const bf16* rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = work.first_row(item) + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        rows[i] = work.q + std::int64_t{min(row, work.rows - 1)} * d + lane_id() % 4 * 2;
    }
#pragma unroll
    for (int step = 0; step < kept_panels * steps; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            q[step][i] = *reinterpret_cast<const std::uint32_t*>(rows[i % 2] + step * 16 + i / 2 * 8);
}

__device__ Limits limits_of(const Work& work, int item, const Range& range) {
    Limits limits;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = work.first_row(item) + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        const int t = min(row, work.rows - 1) / work.H;
        limits.first[i] = max(static_cast<int>(work.seen.first(t)), range.first);
        limits.end[i] = min(static_cast<int>(work.seen.end(t)), range.end);
    }
    return limits;
}

// p, as A of p v, to shared memory for the other warpgroup.
__device__ void store_weights(const Weights<tile_keys>& p, unsigned char* to) {
    const int lane = lane_id(), matrix = lane / 8;
    const int row = wgmma_row(static_cast<int>(threadIdx.x), 0) / 16 * 16 + lane % 8 + matrix % 2 * 8;
#pragma unroll
    for (int i = 0; i < tile_keys / 16; ++i) {
        const bool second = i >= 2;
        const Swizzle swizzle = second ? Swizzle::bytes_32 : Swizzle::bytes_64;
        const auto offset = static_cast<std::uint32_t>(row * span_of(swizzle) + (2 * (i % 2) + matrix / 2) * 16);
        store_matrices(p[i], to + (second ? second_p : 0) + swizzled_offset(offset, swizzle));
    }
}

// half: of the value's columns, and of the tiles, which are scored in turn.
__device__ void attend_half(Shared& memory, const Work& work, const TensorMap& to, int half) {
    const int warp = warp_id() % 4, lane = lane_id();
    const int rows[2] = {wgmma_row(static_cast<int>(threadIdx.x), 0), wgmma_row(static_cast<int>(threadIdx.x), 2)};
    const float to_log2 = work.result.scale * one_over_ln2;
    const auto values = [&](int at) {
        return memory.tile[__shfl_sync(all_lanes, at, 0)].at +
               half * value_panels / 2 * apart;  // uniform, sees ptxas
    };
    const auto release = [&](int at) {
        __syncwarp();
        if (lane == 0)
            for (int rank = 0; rank < blocks; ++rank) mbarrier_give_back_at(memory.empty[at], rank);
    };
    float out[half_d_v / 2];  // [heads, half_d_v]
    KeptQ q;
    if (work.item(0) >= 0) load_q(q, work, work.item(0));
    Turn turn;
    for (int round = 0, item; (item = work.item(round)) >= 0; ++round) {
        const Range range = work.range(item);
        const Limits limits = limits_of(work, item, range);
        RunningSoftmax softmax;
        // The other's p v, begun.
        const auto weigh_others = [&](const Turn& of, bool first) {
            mbarrier_wait_in_block(memory.scored[of.stage], of.parity);
            const Told& told = memory.told[of.stage];
            if (told.rises[warp] != 0) {
                float factor[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float now = told.reference[rows[i]];
                    factor[i] = now == softmax.reference[i] ? 1.0F : exp2_of((softmax.reference[i] - now) * to_log2);
                    softmax.reference[i] = now;
                    softmax.sum[i] *= factor[i];
                }
                if (!first) rescale(out, factor);
            }
            unsigned char* v = values(of.stage);
            const unsigned char* p = memory.tile[__shfl_sync(all_lanes, of.stage, 0)].p();
            hold(out);
            wgmma_fence();
            weigh<Swizzle::bytes_64, apart>(out, p, v, !first);
            weigh<Swizzle::bytes_32, apart>(out, p + second_p, v + 32 * row_bytes, true);
            wgmma_commit();
        };
        mbarrier_wait_in_block(memory.q_full, round % 2);
        Turn last = turn;
        for (int tile = half; tile < range.tiles; tile += 2) {
            const Turn before = turn;
            if (tile > 0) turn.next();
            const unsigned char* k = memory.tile[__shfl_sync(all_lanes, turn.stage, 0)].at;
            mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
            float s[tile_keys / 2];
            wgmma_fence();
            score<kept_panels, apart>(s, q, k, false);
            score<panels - kept_panels, apart>(s, memory.q, k + kept_panels * apart, true);
            wgmma_commit();
            if (tile > 0) {
                weigh_others(before, tile == 1);
                wgmma_wait<1>();
            } else {
                wgmma_wait<0>();
            }
            hold(s);
            if (tile + 2 >= range.tiles && lane == 0) mbarrier_arrive(memory.q_empty);
            limits.hide(s, range.first + tile * tile_keys);
            const bool rises = softmax.step(s, {0xffffffffU, 0xffffffffU}, to_log2);
            Weights<tile_keys> p;
            round_weights(p, s);
            barrier_sync(warpgroup_barrier + half, warpgroup);  // all warps' products have read the rotated columns
            store_weights(p, memory.tile[turn.stage].p());
            Told& told = memory.told[turn.stage];
            if (lane == 0) told.rises[warp] = rises ? 1 : 0;
            if (rises && lane % 4 == 0)
#pragma unroll
                for (int i = 0; i < 2; ++i) told.reference[rows[i]] = softmax.reference[i];
            fence_proxy_async_shared();
            __syncwarp();
            if (lane == 0) mbarrier_arrive(memory.scored[turn.stage]);
            if (tile > 0) {
                wgmma_wait<0>();
                hold(out);
                release(before.stage);
                if (rises) rescale(out, softmax.factor);
            }
            hold(out);
            wgmma_fence();
            weigh_from_registers<apart>(out, p, values(turn.stage), tile > 0);
            wgmma_commit();
            last = turn;
            wgmma_wait<0>();
            hold(out);
            if (tile + 1 < range.tiles) release(turn.stage);
            turn.next();
        }
        if (range.tiles <= half && lane == 0) mbarrier_arrive(memory.q_empty);
        if (work.item(round + 1) >= 0) load_q(q, work, work.item(round + 1));
        if ((range.tiles - 1) % 2 != half) {
            weigh_others(turn, range.tiles == 1);
            wgmma_wait<0>();
            hold(out);
            last = turn;
            turn.next();
        }
        float by[2];
        float(&sums)[2][heads] = memory.sum[round % 2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float total = softmax.total(i);
            if (lane % 4 == 0) sums[half][rows[i]] = total;
        }
        barrier_sync(both_barrier, 2 * warpgroup);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float sum = sums[0][rows[i]] + sums[1][rows[i]],
                        reference = softmax.reference[i] * work.result.scale;
            const int row = work.first_row(item) + rows[i];
            by[i] =
                reference == minus_infinity() ? 0.0F : 1.0F / denominator(work.result, row % work.H, reference, sum);
            if (half != 0 || lane % 4 != 0 || row >= work.rows) continue;
            if (work.part_count == 1) {
                work.result.lse[row] = told_lse(work.result, reference, sum);
            } else {
                const std::int64_t at = std::int64_t{work.part(item)} * work.rows + row;
                work.parts.reference[at] = reference;
                work.parts.sum[at] = sum;
            }
        }
        if (work.part_count == 1)
            leave_result(work, to, item, half, out, by, values(last.stage));
        else
            leave_part(work, to, item, half, out, values(last.stage));
        release(last.stage);
    }
    if (threadIdx.x % warpgroup == 0) bulk_wait<0>();
}

__global__ void __launch_bounds__(threads, 1)
    attend(Work work, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap kv,
           const __grid_constant__ TensorMap to) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.q_full, 1);
        mbarrier_init(memory.q_empty, 8);
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(memory.full[i], 1);
            mbarrier_init(memory.scored[i], 4);
            mbarrier_init(memory.empty[i], 8 * blocks);
        }
        fence_mbarrier_init();
    }
    cluster_sync();
    const int job = static_cast<int>(threadIdx.x) / warpgroup;
    if (job == 0) {
        give_back_registers<40>();
        if (warp_id() == 0) bring(memory, work, q, kv);
    } else {
        take_registers<232>();
        attend_half(memory, work, to, job - 1);
    }
    cluster_sync();  // the other block arrives at this one's barriers
}

}  // namespace

std::int64_t dense_attention_level_3_workspace(const DenseAttention& call) {
    Arena arena;
    const Parts parts(Plan(call), arena);
    return arena.bytes();
}

std::string dense_attention_level_3_declines(const DenseAttention& call) {
    if (!call.mqa) return "it is of MQA only";
    if (call.d != d || call.d_v != d_v)
        return sentence("a latent has ", d, " numbers, of which ", d_v, " are the value; here ", call.d, " and ",
                        call.d_v);
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() - group_rows;
    if (call.T * call.H > most || call.S > most)
        return sentence("T H and S must be below 2^31; T, H and S are ", call.T, ", ", call.H, " and ", call.S);
    if (call.S == 0) return "there are no positions";
    if (!(call.result.scale > 0)) return sentence("the scale must be positive; it is ", call.result.scale);
    return {};
}

void dense_attention_level_3(const DenseAttention& call) {
    const Plan plan(call);
    if (plan.items() == 0) return;
    require_workspace(call.workspace, call.workspace_bytes, dense_attention_level_3_workspace(call));
    Arena arena(call.workspace);
    const Parts parts(plan, arena);
    const Work work{call.q,
                    {call.start, call.T, call.S, call.causal},
                    call.result,
                    parts,
                    static_cast<int>(call.H),
                    plan.rows,
                    plan.groups,
                    plan.parts,
                    plan.items()};
    launch("dense_attention_attend", attend,
           {.blocks = std::min(plan.items() * blocks, multiprocessors),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .cluster = blocks},
           work, matrix_map("q", call.q, plan.rows, d, d, heads, panel_columns, wide),
           matrix_map("kv", call.keys, call.S, d, d, brought, panel_columns, wide),
           plan.parts > 1 ? parts_map(plan, parts)
                          : matrix_map("out", call.result.out, plan.rows, d_v, d_v, heads, panel_columns, wide));
    if (plan.parts == 1) return;
    launch("dense_attention_add_parts", add_parts,
           {.blocks = plan.rows,
            .threads = adding_threads,
            .shared_bytes = sizeof(Adding),
            .stream = call.stream,
            .overlaps_previous = true},
           parts, call.result, plan.rows, static_cast<int>(call.H), plan.parts);
}

}  // namespace dsa
