// Level 4. A stage of level 3 waits for its p v, then for its gather, and both stand in the way of the next scores.
// Here a tile is given back by halves of 32 rows, and there is room for half a tile more, because four of q's panels
// live in the scorers' registers: a ring of 2.5 tiles. The sums leave by tensor stores, through the panels of the
// last tile.
#include "optimized/attention/selected.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/tma.h"
#include "optimized/sparse_prefill/work.cuh"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace latent_tile;

constexpr int threads = 4 * warpgroup;
constexpr int kept_panels = 4;                        // of q, in registers
constexpr int unit_rows = 32;                         // what is gathered and given back at once
constexpr int units = 5;                              // of the ring
constexpr int apart = units * unit_rows * row_bytes;  // of panels
constexpr int most_tiles = 3;                         // that are anywhere between scores and sums
enum : int { scorers_barrier = 1, weighers_barrier = 2 };

// A tile's 64 rows must lie together, also when they are the ring's last 32 and its first 32. Then the second half
// lies behind the first, where the first rows of the next panel would be: one panel further on than it lies
// otherwise. Hence 32 more rows at the end.
struct alignas(1024) Ring {
    unsigned char at[panels * apart + unit_rows * row_bytes];
};
struct Rescaling {
    std::uint32_t rises[4];  // whether rows of warp w are rescaled
    float factor[heads];     // by what
    float one_over[heads];   // after an item's last tile: what its sums are multiplied by
};
struct Shared {
    Ring ring;
    Panel q[panels - kept_panels];
    Rescaling rescaling[most_tiles];
    Mbarrier q_full;
    Mbarrier full[units];         // rows are there
    Mbarrier empty[units];        // and have been weighed
    Mbarrier scored[most_tiles];  // p is there
};

// A place in a ring of n.
template <int n>
struct Turn {
    int at = 0, parity = 0;
    __device__ void next() {
        if (++at == n) at = 0, parity ^= 1;
    }
};
// Where the tile that begins with this unit lies in each panel. All lanes say the same, and ptxas shall know it.
__device__ inline int place_of(const Turn<units>& first) {
    return __shfl_sync(all_lanes, first.at, 0) * unit_rows * row_bytes;
}

// An item's indices, and nothing past its last slot.
struct Indices {
    const std::int32_t* row;  // [k]
    int k;
    __device__ Indices(const Work& work, int item)
        : row(work.kept + std::int64_t{work.query(item)} * work.k), k(work.k) {}
    __device__ std::int32_t operator[](int slot) const { return slot < k ? row[slot] : -1; }
};

// Warp w brings rows 8 w ... 8 w + 7 of a unit, 8 lanes a row.
__device__ void gather(Shared& memory, const Work& work) {
    const int lane = lane_id(), row = warp_id() * 8 + lane / 8;
    const int first_place = place_of_piece(row, lane % 8);
    const int four_rows_on = 4 * row_bytes + ((first_place & 64) == 0 ? 64 : -64);  // the swizzle's third bit
    Turn<units> turn;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x)) {
        const Indices indices(work, item);
        const int slots = work.tiles() * keys;
        std::int32_t position[2] = {indices[row], indices[row + 4]};
        int place = 0;
        for (int slot = 0; slot < slots; slot += unit_rows, turn.next()) {
            const bool first = slot % keys == 0;  // of its tile; the second half lies behind it
            place = first ? turn.at * unit_rows * row_bytes : place + unit_rows * row_bytes;
            const std::int32_t next[2] = {indices[slot + unit_rows + row], indices[slot + unit_rows + row + 4]};
            mbarrier_wait_block(memory.empty[turn.at], turn.parity ^ 1);
            unsigned char* to = memory.ring.at + place + first_place;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const bool counts = position[i] >= 0;
                const bf16* from = work.kv + (counts ? std::int64_t{position[i]} * d : 0) + lane % 8 * 8;
#pragma unroll
                for (int panel = 0; panel < panels; ++panel)
                    cp_async<16>(to + panel * apart + i * four_rows_on, from + panel * panel_columns,
                                 counts ? 16 : 0);
                position[i] = next[i];
            }
            cp_async_arrive(memory.full[turn.at]);
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
        // Past the last head there are no rows, or another query's: they are not stored.
        rows[i] = work.q + std::int64_t{min(row, work.T * work.H - 1)} * d + lane_id() % 4 * 2;
    }
#pragma unroll
    for (int step = 0; step < kept_panels * steps; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            q[step][i] = *reinterpret_cast<const std::uint32_t*>(rows[i % 2] + step * 16 + i / 2 * 8);
}

// One thread: the other panels.
__device__ void load_rest_of_q(Shared& memory, const Work& work, const TensorMap& q, int item) {
    mbarrier_arrive_expect(memory.q_full, sizeof memory.q);
    for (int panel = kept_panels; panel < panels; ++panel)
        tma_load(&memory.q[panel - kept_panels], q, {panel * panel_columns, work.first_row(item)}, memory.q_full);
}

__device__ void score_tiles(Shared& memory, const Work& work, const TensorMap& q_map) {
    const float to_log2 = work.result.scale * one_over_ln2;
    const int warp = warp_id() % 4, tiles = work.tiles();
    const bool first_thread = threadIdx.x % warpgroup == 0;
    int item = static_cast<int>(blockIdx.x);
    KeptQ q;
    load_q(q, work, item);
    if (first_thread) load_rest_of_q(memory, work, q_map, item);
    Turn<units> unit;
    Turn<most_tiles> turn;
    int round = 0;
    for (; item < work.items; item += static_cast<int>(gridDim.x), ++round) {
        RunningSoftmax softmax;
        const Indices indices(work, item);
        std::int32_t index[2] = {indices[lane_id()], indices[lane_id() + 32]};
        mbarrier_wait_block(memory.q_full, round % 2);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            unsigned char* k = memory.ring.at + place_of(unit);
            for (int i = 0; i < 2; ++i, unit.next()) mbarrier_wait_block(memory.full[unit.at], unit.parity);
            fence_proxy_async_shared();  // cp.async writes as threads do
            float s[keys / 2];
            wgmma_fence();
            score<kept_panels, apart>(s, q, k, false);
            score<panels - kept_panels, apart>(s, memory.q, k + kept_panels * apart, true);
            wgmma_commit();
            const std::uint32_t valid[2] = {__ballot_sync(all_lanes, index[0] >= 0),
                                            __ballot_sync(all_lanes, index[1] >= 0)};
#pragma unroll
            for (int i = 0; i < 2; ++i) index[i] = indices[(tile + 1) * keys + i * 32 + lane_id()];
            wgmma_wait<0>();
            hold(s);
            const bool last = tile + 1 == tiles;
            const int next = item + static_cast<int>(gridDim.x);
            barrier_sync(scorers_barrier, warpgroup);  // all four warps' products have read q and k
            if (last && next < work.items) {
                if (first_thread) load_rest_of_q(memory, work, q_map, next);
                load_q(q, work, next);
            }
            const bool rises = softmax.step(s, valid, to_log2);
            store_weights(s, k + value_panels * apart);
            Rescaling& rescaling = memory.rescaling[turn.at];
            if (lane_id() == 0) rescaling.rises[warp] = rises ? 1 : 0;
            if (rises && lane_id() % 4 == 0)
#pragma unroll
                for (int row = 0; row < 2; ++row)
                    rescaling.factor[wgmma_row(static_cast<int>(threadIdx.x), 2 * row)] = softmax.factor[row];
            if (last) conclude(work, softmax, item, rescaling.one_over);
            fence_proxy_async_shared();
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.scored[turn.at]);
        }
    }
}

// half: of the value's columns.
__device__ void weigh_tiles(Shared& memory, const Work& work, const TensorMap& out_map, int half) {
    const int warp = warp_id() % 4, tiles = work.tiles();
    const int rows[2] = {wgmma_row(static_cast<int>(threadIdx.x), 0), wgmma_row(static_cast<int>(threadIdx.x), 2)};
    Turn<units> unit;
    Turn<most_tiles> turn;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x)) {
        float out[2][d_v / 8];  // [2, heads, d_v / 4]
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            const Rescaling& rescaling = memory.rescaling[turn.at];
            unsigned char* k = memory.ring.at + place_of(unit);
            unsigned char* v = k + half * value_panels / 2 * apart;
            const unsigned char* p = k + value_panels * apart;
            mbarrier_wait_block(memory.scored[turn.at], turn.parity);
            if (tile > 0 && rescaling.rises[warp] != 0) {
                const float factor[2] = {rescaling.factor[rows[0]], rescaling.factor[rows[1]]};
#pragma unroll
                for (int i = 0; i < d_v / 8; ++i)
#pragma unroll
                    for (float(&part)[d_v / 8] : out) part[i] *= factor[i / 2 % 2];
            }
#pragma unroll
            for (float(&part)[d_v / 8] : out) hold(part);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int part = 0; part < 2; ++part)
                    weigh<wide, apart, steps / 2>(out[part], p + i * row_bytes / 2,
                                                  v + part * value_panels / 4 * apart + i * unit_rows * row_bytes,
                                                  tile > 0 || i > 0);
                wgmma_commit();
            }
            const bool last = tile + 1 == tiles;
            const int first = unit.at;
            unit.next();
            const int second = unit.at;
            unit.next();
            wgmma_wait<1>();
            __syncwarp();
            if (!last && lane_id() == 0) mbarrier_arrive(memory.empty[first]);
            wgmma_wait<0>();
#pragma unroll
            for (float(&part)[d_v / 8] : out) hold(part);
            if (last) {
                barrier_sync(weighers_barrier + half, warpgroup);  // v's panels are this warpgroup's own
#pragma unroll
                for (int part = 0; part < 2; ++part)
                    store_panels<apart>(out[part], {rescaling.one_over[rows[0]], rescaling.one_over[rows[1]]},
                                        v + part * value_panels / 4 * apart);
                fence_proxy_async_shared();
                barrier_sync(weighers_barrier + half, warpgroup);
                if (threadIdx.x % warpgroup == 0) {
                    for (int panel = 0; panel < value_panels / 2; ++panel)
                        tma_store(out_map,
                                  {(half * value_panels / 2 + panel) * panel_columns, work.first_head(item),
                                   work.query(item)},
                                  v + panel * apart);
                    bulk_commit();
                    bulk_wait_read<0>();
                }
                __syncwarp();
                if (lane_id() == 0) mbarrier_arrive(memory.empty[first]);
            }
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.empty[second]);
        }
    }
    if (threadIdx.x % warpgroup == 0) bulk_wait<0>();
}

__global__ void __launch_bounds__(threads, 1)
    attend(Work work, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap out) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.q_full, 1);
        for (int i = 0; i < units; ++i) {
            mbarrier_init(memory.full[i], warpgroup);
            mbarrier_init(memory.empty[i], 8);
        }
        for (Mbarrier& scored : memory.scored) mbarrier_init(scored, 4);
        fence_mbarrier_init();
    }
    __syncthreads();
    const int job = static_cast<int>(threadIdx.x) / warpgroup;
    if (job == 0) {
        give_back_registers<40>();
        gather(memory, work);
    } else if (job == 1) {
        take_registers<152>();
        score_tiles(memory, work, q);
    } else {
        take_registers<160>();
        weigh_tiles(memory, work, out, job - 2);
    }
}

}  // namespace

void sparse_prefill_level_4(const SparsePrefill& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_prefill_workspace(call));
    auto* kept = static_cast<std::int32_t*>(call.workspace);  // [T, k]
    keep_selected(call.indices, kept, call.T, call.k, call.S, call.stream);
    const Work work = work_of(call, kept);
    if (work.items == 0) return;
    launch("sparse_prefill_attend", attend,
           {.blocks = std::min(work.items, multiprocessors),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream},
           work, matrix_map("q", call.q, call.T * call.H, d, d, heads, panel_columns, wide), out_map(call));
}

}  // namespace dsa
