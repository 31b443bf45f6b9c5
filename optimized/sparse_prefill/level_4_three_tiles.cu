// Level 4. A stage of level 3 waits for its p v and then for its gather, and q k^T, p v and the gather of the next
// tiles wait for the softmax. Here tiles are smaller, 48 keys, so that there are three, and five of q's panels live
// in the scorers' registers. With room for three tiles p v of a tile can wait until q k^T of the next one is done:
// then the tensor cores have p v to do while that one's softmax is made. The sums leave by tensor stores, through the
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
constexpr int kept_panels = 5;  // of q, in registers
constexpr int tile_keys = 48;
constexpr int stages = 3;
constexpr int apart = tile_keys * row_bytes;  // of a tile's panels
constexpr int second_p = heads * 64;          // where p's keys from 32 on begin
enum : int { scorers_barrier = 1, weighers_barrier = 2 };

struct alignas(1024) Tile {
    unsigned char at[panels * apart];  // [panels, tile_keys, panel_columns]
};
// Not in the place of the rotated columns, as in level 3: then the scorers' four warps would wait for each other.
struct alignas(1024) Weights {
    unsigned char at[heads * tile_keys * 2];  // [heads, 32] and [heads, 16]
};
struct Rescaling {
    std::uint32_t rises[4];  // whether rows of warp w are rescaled
    float factor[heads];     // by what
    float one_over[heads];   // after an item's last tile: what its sums are multiplied by
};
struct Shared {
    Tile tile[stages];
    Panel q[panels - kept_panels];
    Weights p[stages];
    Rescaling rescaling[stages];
    Mbarrier q_full;
    Mbarrier full[stages];        // rows are there
    Mbarrier multiplied[stages];  // q k^T is done
    Mbarrier scored[stages];      // p is there
    Mbarrier empty[stages];       // p v is done
};

// The tile that comes next, counted over all items of a block.
struct Turn {
    int at = 0, parity = 0;
    __device__ void next() {
        if (++at == stages) at = 0, parity ^= 1;
    }
};
__device__ int tiles_of(const Work& work) { return work.k == 0 ? 1 : (work.k + tile_keys - 1) / tile_keys; }

// An item's indices, and nothing past its last slot.
struct Indices {
    const std::int32_t* row;  // [k]
    int k;
    __device__ Indices(const Work& work, int item)
        : row(work.kept + std::int64_t{work.query(item)} * work.k), k(work.k) {}
    __device__ std::int32_t operator[](int slot) const { return slot < k ? row[slot] : -1; }
};

// Warp w brings rows 12 w ... 12 w + 11 of a tile, 8 lanes a row.
__device__ void gather(Shared& memory, const Work& work) {
    constexpr int rounds = tile_keys / 16;
    const int lane = lane_id(), row = warp_id() * 4 * rounds + lane / 8;
    const int first_place = place_of_piece(row, lane % 8);
    const int other_half =
        (first_place & 64) == 0 ? 64 : -64;  // four rows on the swizzle's third bit is the other one
    const int tiles = tiles_of(work);
    Turn turn;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x)) {
        const Indices indices(work, item);
        std::int32_t position[rounds];
#pragma unroll
        for (int i = 0; i < rounds; ++i) position[i] = indices[row + 4 * i];
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            unsigned char* to = memory.tile[turn.at].at + first_place;
            mbarrier_wait_in_block(memory.empty[turn.at], turn.parity ^ 1);
#pragma unroll
            for (int i = 0; i < rounds; ++i) {
                const bool counts = position[i] >= 0;
                const bf16* from = work.kv + (counts ? std::int64_t{position[i]} * d : 0) + lane % 8 * 8;
                unsigned char* there = to + 4 * i * row_bytes + (i % 2 == 0 ? 0 : other_half);
#pragma unroll
                for (int panel = 0; panel < panels; ++panel)
                    cp_async<16>(there + panel * apart, from + panel * panel_columns, counts ? 16 : 0);
                position[i] = indices[(tile + 1) * tile_keys + row + 4 * i];
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
    const int warp = warp_id() % 4, tiles = tiles_of(work);
    const bool first_thread = threadIdx.x % warpgroup == 0;
    int item = static_cast<int>(blockIdx.x);
    KeptQ q;
    load_q(q, work, item);
    if (first_thread) load_rest_of_q(memory, work, q_map, item);
    Turn turn;
    int round = 0;
    for (; item < work.items; item += static_cast<int>(gridDim.x), ++round) {
        RunningSoftmax softmax;
        const Indices indices(work, item);
        mbarrier_wait_in_block(memory.q_full, round % 2);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            unsigned char* k = memory.tile[__shfl_sync(all_lanes, turn.at, 0)].at;  // uniform, sees ptxas
            mbarrier_wait_in_block(memory.full[turn.at], turn.parity);
            fence_proxy_async_shared();  // cp.async writes as threads do
            std::int32_t index[2];       // after the fence, which would wait for them; the products hide them
#pragma unroll
            for (int i = 0; i < 2; ++i) index[i] = indices[tile * tile_keys + i * 32 + lane_id()];
            float s[tile_keys / 2];
            wgmma_fence();
            score<kept_panels, apart>(s, q, k, false);
            score<panels - kept_panels, apart>(s, memory.q, k + kept_panels * apart, true);
            wgmma_commit();
            const std::uint32_t valid[2] = {__ballot_sync(all_lanes, index[0] >= 0),
                                            __ballot_sync(all_lanes, index[1] >= 0) | 0xffff0000U};
            wgmma_wait<0>();
            hold(s);
            if (lane_id() == 0) mbarrier_arrive(memory.multiplied[turn.at]);
            const bool last = tile + 1 == tiles;
            const int next = item + static_cast<int>(gridDim.x);
            if (last && next < work.items) {
                barrier_sync(scorers_barrier, warpgroup);  // all four warps' products have read q
                if (first_thread) load_rest_of_q(memory, work, q_map, next);
                load_q(q, work, next);
            }
            const bool rises = softmax.step(s, valid, to_log2);
            unsigned char* p = memory.p[turn.at].at;
            store_weights<16>(s, p);
            store_weights<8>(s + 16, p + second_p);
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
    const int warp = warp_id() % 4, tiles = tiles_of(work);
    const int rows[2] = {wgmma_row(static_cast<int>(threadIdx.x), 0), wgmma_row(static_cast<int>(threadIdx.x), 2)};
    Turn turn;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x)) {
        float out[2][d_v / 8];  // [2, heads, d_v / 4]
        for (int tile = 0; tile < tiles; ++tile) {
            const Rescaling& rescaling = memory.rescaling[turn.at];
            const int now = turn.at;
            unsigned char* k = memory.tile[__shfl_sync(all_lanes, now, 0)].at;
            unsigned char* v = k + half * value_panels / 2 * apart;
            const unsigned char* p = memory.p[__shfl_sync(all_lanes, now, 0)].at;
            mbarrier_wait_in_block(memory.scored[now], turn.parity);
            turn.next();
            const bool last = tile + 1 == tiles;
            if (!last) mbarrier_wait_in_block(memory.multiplied[turn.at], turn.parity);
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
            for (int part = 0; part < 2; ++part) {
                const unsigned char* columns = v + part * value_panels / 4 * apart;
                weigh<Swizzle::bytes_64, apart>(out[part], p, columns, tile > 0);
                weigh<Swizzle::bytes_32, apart>(out[part], p + second_p, columns + 32 * row_bytes, true);
            }
            wgmma_commit();
            wgmma_wait<0>();
#pragma unroll
            for (float(&part)[d_v / 8] : out) hold(part);
            if (last) {
                const float one_over[2] = {rescaling.one_over[rows[0]], rescaling.one_over[rows[1]]};
#pragma unroll
                for (int part = 0; part < 2; ++part) {
                    // v's panels are this warpgroup's own: all its warps have weighed them, or the store has read
                    // them.
                    barrier_sync(weighers_barrier + half, warpgroup);
                    store_panels<sizeof(Panel), d_v / 8>(out[part], one_over, v);
                    fence_proxy_async_shared();
                    barrier_sync(weighers_barrier + half, warpgroup);
                    if (threadIdx.x % warpgroup != 0) continue;
                    for (int panel = 0; panel < value_panels / 4; ++panel)
                        tma_store(out_map,
                                  {((2 * half + part) * value_panels / 4 + panel) * panel_columns,
                                   work.first_head(item), work.query(item)},
                                  v + panel * static_cast<int>(sizeof(Panel)));
                    bulk_commit();
                    bulk_wait_read<0>();
                }
            }
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.empty[now]);
        }
    }
    if (threadIdx.x % warpgroup == 0) bulk_wait<0>();
}

__global__ void __launch_bounds__(threads, 1)
    attend(Work work, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap out) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.q_full, 1);
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(memory.full[i], warpgroup);
            mbarrier_init(memory.multiplied[i], 4);
            mbarrier_init(memory.scored[i], 4);
            mbarrier_init(memory.empty[i], 8);
        }
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
