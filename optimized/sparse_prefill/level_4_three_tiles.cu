// Level 4. A stage of level 3 waits for its p v and then for its gather, and q k^T, p v and the gather of the next
// tiles wait for the softmax. Here tiles are smaller, 48 keys, so that there are three, and five of q's panels live
// in the scorers' registers. With room for three tiles p v of a tile can wait until q k^T of the next one is done:
// then the tensor cores have p v to do while that one's softmax is made (attention/three_tiles.cuh). The sums leave
// by tensor stores, through the last tile.
#include "optimized/attention/selected.h"
#include "optimized/attention/three_tiles.cuh"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/registers.h"
#include "optimized/sparse_prefill/work.cuh"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace latent_tile;

constexpr int threads = 4 * warpgroup;
using Shared = ThreeTiles<5>;

// An item's indices, and nothing past its last slot.
struct Indices {
    const std::int32_t* row;  // [k]
    int k;
    __device__ Indices(const Work& work, int item)
        : row(work.kept + std::int64_t{work.query(item)} * work.k), k(work.k) {}
    __device__ std::int32_t operator[](int slot) const { return slot < k ? row[slot] : -1; }
};

// What its indices say of a tile's keys.
struct Keys {
    const Indices indices;
    std::int32_t index[2];
    __device__ void ask(int tile) {
#pragma unroll
        for (int i = 0; i < 2; ++i) index[i] = indices[tile * tile_keys + i * 32 + lane_id()];
    }
    __device__ void valid(int, std::uint32_t (&words)[2]) const {
        words[0] = __ballot_sync(all_lanes, index[0] >= 0);
        words[1] = __ballot_sync(all_lanes, index[1] >= 0) | 0xffff0000U;
    }
};

struct Job {
    static constexpr bool copied_by_threads = true;
    const Work& work;
    const TensorMap& out;
    const bf16* q = work.q;
    const int rows_of_q = work.T * work.H;
    const float scale = work.result.scale;
    const int items = work.items, first = static_cast<int>(blockIdx.x), stride = static_cast<int>(gridDim.x);

    __device__ int tiles(int) const { return work.k == 0 ? 1 : (work.k + tile_keys - 1) / tile_keys; }
    __device__ int first_row(int item) const { return work.first_row(item); }
    __device__ Keys keys(int item) const { return {Indices(work, item), {}}; }
    __device__ void conclude(const RunningSoftmax& softmax, int item, float (&one_over)[heads]) const {
        latent_tile::conclude(work, softmax, item, one_over);
    }
    __device__ void leave(int item, int half, const Sums& sums, const float (&one_over)[2],
                          unsigned char* place) const {
        leave_result(out, work.query(item), work.first_head(item), half, sums, one_over, place);
    }
    __device__ static void release(Mbarrier& empty) {
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(empty);
    }
};

// Warp w brings rows 12 w ... 12 w + 11 of a tile, 8 lanes a row.
__device__ void gather(Shared& memory, const Job& job) {
    const Work& work = job.work;
    constexpr int rounds = tile_keys / 16;
    const int lane = lane_id(), row = warp_id() * 4 * rounds + lane / 8;
    const int first_place = place_of_piece(row, lane % 8);
    const int other_half =
        (first_place & 64) == 0 ? 64 : -64;  // four rows on the swizzle's third bit is the other one
    const int tiles = job.tiles(0);
    Turn turn;
    for (int item = job.first; item < job.items; item += job.stride) {
        const Indices indices(work, item);
        std::int32_t position[rounds];
#pragma unroll
        for (int i = 0; i < rounds; ++i) position[i] = indices[row + 4 * i];
        for (int tile = 0; tile < tiles; ++tile, turn.next()) {
            unsigned char* to = memory.tile[turn.stage].at + first_place;
            mbarrier_wait_in_block(memory.empty[turn.stage], turn.parity ^ 1);
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
            cp_async_arrive(memory.full[turn.stage]);
        }
    }
}

__global__ void __launch_bounds__(threads, 1)
    attend(Work work, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap out) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) memory.init(warpgroup, 1);
    __syncthreads();
    const Job job{work, out};
    const int group = static_cast<int>(threadIdx.x) / warpgroup;
    if (group == 0) {
        give_back_registers<40>();
        gather(memory, job);
    } else if (group == 1) {
        take_registers<152>();
        score_tiles(memory, job, q);
    } else {
        take_registers<160>();
        weigh_tiles(memory, job, group - 2);
    }
}

}  // namespace

void sparse_prefill_level_4(const SparsePrefill& call) {
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
           work, matrix_map("q", call.q, call.T * call.H, d, d, heads, panel_columns, wide),
           heads_map("out", call.result.out, call.T, call.H));
}

}  // namespace dsa
