// Level 4. Room for half a tile more: two thirds of q live in the scorers' registers, which also spares shared memory
// their reading, and nobody only gathers: when the weighers have read 32 rows for the last time they ask for the next
// 32 that will lie there, by cp.async, and go on. So a ring of 160 rows, 2.5 tiles, is filled 32 rows at a time.
#include "optimized/attention/selected.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/cp_async.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/tma.h"
#include "optimized/sparse_prefill/work.cuh"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace latent_tile;

constexpr int threads = 3 * warpgroup;
constexpr int weighers = 2 * warpgroup;
constexpr int kept_panels = 6;  // of q, in registers
constexpr int unit_rows = 32;   // what is asked for and given back at once
constexpr int units = 5;        // of the ring
constexpr int apart = units * unit_rows * row_bytes;  // of panels
enum : int { scorers_barrier = 1, weighers_barrier = 2 };

// A tile's 64 rows must lie together, also when they are the ring's last 32 and its first 32. So there the second
// half lies behind the first, where the first rows of the next panel would be: one panel further on than it lies
// otherwise. Hence 32 more rows at the end.
struct alignas(1024) Ring {
    unsigned char at[panels * apart + unit_rows * row_bytes];
};
struct Weights {
    Panel p;
    std::uint32_t rises[4];  // whether rows of warp w are rescaled
    float factor[heads];     // by what
    float one_over[heads];   // after an item's last tile: what its sums are multiplied by
};
struct Shared {
    Ring ring;
    Panel q[panels - kept_panels];
    Weights weights[2];  // of even and odd tiles
    Mbarrier q_full;
    Mbarrier full[units];  // rows are there
    Mbarrier scored[2];    // p is there
    Mbarrier weighed[2];   // p v is done
};

// A unit of the ring. A tile begins at one and has the next one too.
struct Turn {
    int unit = 0, parity = 0;
    __device__ void next() {
        if (++unit == units) unit = 0, parity ^= 1;
    }
};
// Where it lies in each panel, if it is a tile's first.
__device__ inline int place_of(const Turn& first) { return first.unit * unit_rows * row_bytes; }

// The weighers' next unit. A warp brings 4 of its 32 rows, 8 lanes a row.
class Gathering {
   public:
    __device__ explicit Gathering(const Work& work)
        : work_(work), item_(static_cast<int>(blockIdx.x)), row_((warp_id() - 4) * 4 + lane_id() / 8) {
        first_place_ = place_ = place_of_piece(row_, lane_id() % 8);
        look();
    }

    // Asks for the next unit, if there is one.
    __device__ void ask(Shared& memory) {
        if (item_ >= work_.items) return;
        const bf16* from = work_.kv + (position_ < 0 ? 0 : std::int64_t{position_} * d) + lane_id() % 8 * 8;
        unsigned char* to = memory.ring.at + place_;
#pragma unroll
        for (int panel = 0; panel < panels; ++panel)
            cp_async<16>(to + panel * apart, from + panel * panel_columns, position_ < 0 ? 0 : 16);
        cp_async_arrive(memory.full[turn_.unit]);
        // The second half of a tile is always behind the first; the next tile begins where the ring goes on.
        second_ = !second_;
        turn_.next();
        place_ += unit_rows * row_bytes;
        if (!second_) place_ = first_place_ + place_of(turn_);
        first_slot_ += unit_rows;
        if (first_slot_ >= work_.tiles() * keys) first_slot_ = 0, item_ += static_cast<int>(gridDim.x);
        look();
    }

   private:
    __device__ void look() {
        const int slot = first_slot_ + row_;
        position_ = -1;
        if (item_ < work_.items && slot < work_.k) position_ = work_.kept[std::int64_t{work_.query(item_)} * work_.k + slot];
    }

    const Work& work_;
    int item_;
    int row_;             // of the unit, this thread's
    int first_place_, place_;
    Turn turn_;
    bool second_ = false;  // of its tile's units
    int first_slot_ = 0;  // of the unit, in its item
    std::int32_t position_ = -1;
};

// This thread's part of q's first panels.
__device__ void load_q(std::uint32_t (&q)[kept_panels * steps][4], const Work& work, int item) {
    const bf16* rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int row = work.first_row(item) + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        rows[i] = work.q + std::int64_t{min(row, work.T * work.H - 1)} * d + lane_id() % 4 * 2;  // past the last head: not stored
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
        tma_load(&memory.q[panel - kept_panels], q, {panel * panel_columns, work.first_row(item)},
                 memory.q_full);
}

// Which of a tile's keys count: two words to all lanes.
struct Valid {
    std::uint32_t low, high;
    __device__ Valid(const Work& work, int item, int tile) {
        std::uint32_t word[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int slot = tile * keys + i * 32 + lane_id();
            word[i] = __ballot_sync(all_lanes,
                                    slot < work.k && work.kept[std::int64_t{work.query(item)} * work.k + slot] >= 0);
        }
        low = word[0];
        high = word[1];
    }
};

__device__ void score_tiles(Shared& memory, const Work& work, const TensorMap& q_map) {
    const float to_log2 = work.result.scale * one_over_ln2;
    const int warp = warp_id(), tiles = work.tiles();
    int item = static_cast<int>(blockIdx.x);
    std::uint32_t q[kept_panels * steps][4];
    load_q(q, work, item);
    if (threadIdx.x == 0) load_rest_of_q(memory, work, q_map, item);
    Turn turn;
    int n = 0;  // tiles of all items
    for (int round = 0; item < work.items; item += static_cast<int>(gridDim.x), ++round) {
        RunningSoftmax softmax;
        for (int tile = 0; tile < tiles; ++tile, ++n) {
            const Valid valid(work, item, tile);
            if (tile == 0) mbarrier_wait(memory.q_full, round % 2);
            const unsigned char* k = memory.ring.at + place_of(turn);
            for (int unit = 0; unit < 2; ++unit, turn.next())
                mbarrier_wait(memory.full[turn.unit], turn.parity);
            fence_proxy_async();  // cp.async is no asynchronous copy in the sense of the proxies
            float s[keys / 2];
            wgmma_fence();
            score<kept_panels, apart>(s, q, k, false);
            score<panels - kept_panels, apart>(s, memory.q, k + kept_panels * apart, true);
            wgmma_commit();
            wgmma_wait<0>();
            hold(s);
            Weights& weights = memory.weights[n % 2];
            const bool last = tile + 1 == tiles;
            if (last && item + static_cast<int>(gridDim.x) < work.items) {
                barrier_sync(scorers_barrier, warpgroup);  // all four warps' products have read q
                if (threadIdx.x == 0) load_rest_of_q(memory, work, q_map, item + static_cast<int>(gridDim.x));
                load_q(q, work, item + static_cast<int>(gridDim.x));
            }
            const bool rises = softmax.step(s, valid.low, valid.high, to_log2);
            mbarrier_wait(memory.weighed[n % 2], n / 2 % 2 ^ 1);
            store_weights(s, weights.p);
            if (lane_id() == 0) weights.rises[warp] = rises ? 1 : 0;
            if (rises && lane_id() % 4 == 0)
#pragma unroll
                for (int row = 0; row < 2; ++row)
                    weights.factor[wgmma_row(static_cast<int>(threadIdx.x), 2 * row)] = softmax.factor[row];
            if (last) conclude(work, softmax, item, weights.one_over);
            fence_proxy_async();
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.scored[n % 2]);
        }
    }
}

// half: of the value's columns.
__device__ void weigh_tiles(Shared& memory, const Work& work, int half) {
    const int warp = warp_id() % 4, tiles = work.tiles();
    const int rows[2] = {wgmma_row(static_cast<int>(threadIdx.x), 0), wgmma_row(static_cast<int>(threadIdx.x), 2)};
    Gathering gathering(work);
    for (int unit = 0; unit < units; ++unit) gathering.ask(memory);
    Turn turn;
    int n = 0;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x)) {
        float out[d_v / 4];  // [heads, d_v / 2]
        float one_over[2];
        for (int tile = 0; tile < tiles; ++tile, ++n) {
            Weights& weights = memory.weights[n % 2];
            const unsigned char* v = memory.ring.at + place_of(turn) + half * value_panels / 2 * apart;
            turn.next();
            turn.next();
            mbarrier_wait(memory.scored[n % 2], n / 2 % 2);
            if (tile > 0 && weights.rises[warp] != 0) {
                const float factor[2] = {weights.factor[rows[0]], weights.factor[rows[1]]};
#pragma unroll
                for (int i = 0; i < d_v / 4; ++i) out[i] *= factor[i / 2 % 2];
            }
            hold(out);
            wgmma_fence();
            weigh<steps / 2, apart>(out, weights.p, 0, v, tile > 0);
            wgmma_commit();
            weigh<steps / 2, apart>(out, weights.p, steps / 2, v, true);
            wgmma_commit();
            wgmma_wait<1>();
            barrier_sync(weighers_barrier, weighers);  // nobody reads the first 32 rows any more
            gathering.ask(memory);
            wgmma_wait<0>();
            hold(out);
            if (tile + 1 == tiles)
                for (int row = 0; row < 2; ++row) one_over[row] = weights.one_over[rows[row]];
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.weighed[n % 2]);
            barrier_sync(weighers_barrier, weighers);  // nor the others
            gathering.ask(memory);
        }
        store_out(work, item, out, one_over, half * d_v / 2);
    }
}

__global__ void __launch_bounds__(threads, 1) attend(Work work, const __grid_constant__ TensorMap q) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.q_full, 1);
        for (Mbarrier& full : memory.full) mbarrier_init(full, weighers);
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(memory.scored[i], 4);
            mbarrier_init(memory.weighed[i], 8);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int job = static_cast<int>(threadIdx.x) / warpgroup;
    if (job == 0)
        score_tiles(memory, work, q);
    else
        weigh_tiles(memory, work, job - 1);
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
           work, matrix_map("q", call.q, call.T * call.H, d, d, heads, panel_columns, wide));
}

}  // namespace dsa
