// Level 4. Scores are a tile ahead: while p of a tile is made, q k^T of the next one runs, so that the softmax, long
// for one warp a scheduler, no longer stands between products. For that many tiles must be on their way at once, so
// they are small, 32 keys, in a ring of five. More than half of q lives in the scorers' registers (N = 32 would read
// A more often than B), which makes the room; and nobody only gathers: who has weighed a tile asks, by cp.async, for
// the one that will lie there, and goes on.
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
constexpr int kept_panels = 5;  // of q, in registers
constexpr int tile_keys = 32;
constexpr int stages = 5;
constexpr int apart = tile_keys * row_bytes;  // of a tile's panels
constexpr Swizzle of_p = Swizzle::bytes_64;
constexpr int buffers = 3;  // of p
enum : int { scorers_barrier = 1, weighers_barrier = 2 };

struct alignas(1024) Tile {
    unsigned char at[panels * apart];  // [panels, tile_keys, panel_columns]
};
struct alignas(1024) Weights {
    unsigned char at[heads * span_of(of_p)];  // [heads, tile_keys]
};
struct Rescaling {
    std::uint32_t rises[4];  // whether rows of warp w are rescaled
    float factor[heads];     // by what
    float one_over[heads];   // after an item's last tile: what its sums are multiplied by
};
struct Shared {
    Tile tile[stages];
    Panel q[panels - kept_panels];
    Weights p[buffers];
    Rescaling rescaling[buffers];
    Mbarrier q_full;
    Mbarrier full[stages];      // rows are there
    Mbarrier scored[buffers];   // p is there
    Mbarrier weighed[buffers];  // p v is done
};

// A place in a ring of n.
template <int n>
struct Turn {
    int at = 0, parity = 0;
    __device__ void next() {
        if (++at == n) at = 0, parity ^= 1;
    }
};

__device__ int tiles_of(const Work& work) { return work.tiles() * (keys / tile_keys); }  // even

// An item's indices, and nothing past its last slot.
struct Indices {
    const std::int32_t* row = nullptr;  // [k]
    int k = 0;
    Indices() = default;
    __device__ Indices(const Work& work, int item)
        : row(work.kept + std::int64_t{item < work.items ? work.query(item) : 0} * work.k),
          k(item < work.items ? work.k : 0) {}
    __device__ std::int32_t operator[](int slot) const { return slot < k ? row[slot] : -1; }
};

// The weighers' next tile. A warp brings 4 of its 32 rows, 8 lanes a row.
class Gathering {
   public:
    __device__ explicit Gathering(const Work& work)
        : work_(work),
          row_((warp_id() - 4) * 4 + lane_id() / 8),
          place_(place_of_piece(row_, lane_id() % 8)),
          item_(static_cast<int>(blockIdx.x)),
          indices_(work, item_),
          position_(indices_[row_]) {}

    // Asks for the next tile, if there is one.
    __device__ void ask(Shared& memory) {
        if (item_ >= work_.items) return;
        const bf16* from = work_.kv + (position_ < 0 ? 0 : std::int64_t{position_} * d) + lane_id() % 8 * 8;
        unsigned char* to = memory.tile[turn_.at].at + place_;
#pragma unroll
        for (int panel = 0; panel < panels; ++panel)
            cp_async<16>(to + panel * apart, from + panel * panel_columns, position_ < 0 ? 0 : 16);
        cp_async_arrive(memory.full[turn_.at]);
        turn_.next();
        first_slot_ += tile_keys;
        if (first_slot_ == work_.tiles() * keys) {
            first_slot_ = 0;
            item_ += static_cast<int>(gridDim.x);
            indices_ = Indices(work_, item_);
        }
        position_ = indices_[first_slot_ + row_];
    }

   private:
    const Work& work_;
    const int row_, place_;  // this thread's, of a tile
    int item_;
    Indices indices_;
    int first_slot_ = 0;
    std::int32_t position_;
    Turn<stages> turn_;
};

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

// The warpgroup that scores.
class Scorer {
   public:
    __device__ Scorer(Shared& memory, const Work& work, const TensorMap& q_map)
        : memory_(memory), work_(work), q_map_(q_map), to_log2_(work.result.scale * one_over_ln2) {}

    __device__ void run() {
        const int pairs = work_.tiles();
        load(static_cast<int>(blockIdx.x));
        float even[tile_keys / 2], odd[tile_keys / 2];
        for (item_ = static_cast<int>(blockIdx.x); item_ < work_.items; item_ += static_cast<int>(gridDim.x)) {
            softmax_ = RunningSoftmax();
            indices_ = Indices(work_, item_);
            slot_ = lane_id();
            index_ = indices_[slot_];
            mbarrier_wait_block(memory_.q_full, q_parity_);
            q_parity_ ^= 1;
            score(even);
            wait(even);
            for (int pair = 1; pair < pairs; ++pair) {
                score(odd);
                tell(even, false);
                wait(odd);
                score(even);
                tell(odd, false);
                wait(even);
            }
            score(odd);
            tell(even, false);
            wait(odd);
            const int next = item_ + static_cast<int>(gridDim.x);
            barrier_sync(scorers_barrier, warpgroup);  // all four warps' products have read q
            if (next < work_.items) load(next);
            tell(odd, true);
        }
    }

   private:
    __device__ void load(int item) {
        if (threadIdx.x == 0) load_rest_of_q(memory_, work_, q_map_, item);
        load_q(q_, work_, item);
    }

    // Issues q k^T of the next tile.
    __device__ void score(float (&s)[tile_keys / 2]) {
        mbarrier_wait_block(memory_.full[tile_.at], tile_.parity);
        fence_proxy_async_shared();  // cp.async writes as threads do
        const unsigned char* k = memory_.tile[__shfl_sync(all_lanes, tile_.at, 0)].at;  // uniform, sees ptxas
        tile_.next();
        wgmma_fence();
        latent_tile::score<kept_panels, apart>(s, q_, k, false);
        latent_tile::score<panels - kept_panels, apart>(s, memory_.q, k + kept_panels * apart, true);
        wgmma_commit();
    }

    __device__ static void wait(float (&s)[tile_keys / 2]) {
        wgmma_wait<0>();
        hold(s);
    }

    // Makes p of a tile's scores.
    __device__ void tell(float (&s)[tile_keys / 2], bool last) {
        const std::uint32_t valid[1] = {__ballot_sync(all_lanes, index_ >= 0)};
        slot_ += tile_keys;
        index_ = indices_[slot_];  // for the next time
        const bool rises = softmax_.step(s, valid, to_log2_);
        mbarrier_wait_block(memory_.weighed[p_.at], p_.parity ^ 1);
        store_weights(s, memory_.p[p_.at].at);
        Rescaling& rescaling = memory_.rescaling[p_.at];
        if (lane_id() == 0) rescaling.rises[warp_id()] = rises ? 1 : 0;
        if (rises && lane_id() % 4 == 0)
#pragma unroll
            for (int row = 0; row < 2; ++row)
                rescaling.factor[wgmma_row(static_cast<int>(threadIdx.x), 2 * row)] = softmax_.factor[row];
        if (last) conclude(work_, softmax_, item_, rescaling.one_over);
        fence_proxy_async_shared();
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(memory_.scored[p_.at]);
        p_.next();
    }

    Shared& memory_;
    const Work& work_;
    const TensorMap& q_map_;
    const float to_log2_;
    KeptQ q_;
    RunningSoftmax softmax_;
    int item_ = 0;
    Indices indices_;
    int slot_ = 0;            // lane i asks whether slot i of the next tile counts
    std::int32_t index_ = 0;  // what it holds
    int q_parity_ = 0;
    Turn<stages> tile_;
    Turn<buffers> p_;
};

// half: of the value's columns.
__device__ void weigh_tiles(Shared& memory, const Work& work, int half) {
    const int warp = warp_id() % 4, tiles = tiles_of(work);
    const int rows[2] = {wgmma_row(static_cast<int>(threadIdx.x), 0), wgmma_row(static_cast<int>(threadIdx.x), 2)};
    Gathering gathering(work);
    for (int i = 0; i < stages; ++i) gathering.ask(memory);
    Turn<stages> turn;
    Turn<buffers> p;
    for (int item = static_cast<int>(blockIdx.x); item < work.items; item += static_cast<int>(gridDim.x)) {
        float out[d_v / 4];  // [heads, d_v / 2]
        float one_over[2];
        for (int tile = 0; tile < tiles; ++tile) {
            const Rescaling& rescaling = memory.rescaling[p.at];
            mbarrier_wait_block(memory.scored[p.at], p.parity);
            if (tile > 0 && rescaling.rises[warp] != 0) {
                const float factor[2] = {rescaling.factor[rows[0]], rescaling.factor[rows[1]]};
#pragma unroll
                for (int i = 0; i < d_v / 4; ++i) out[i] *= factor[i / 2 % 2];
            }
            hold(out);
            wgmma_fence();
            weigh<of_p, apart>(out, memory.p[p.at].at, memory.tile[turn.at].at + half * value_panels / 2 * apart,
                               tile > 0);
            wgmma_commit();
            wgmma_wait<0>();
            hold(out);
            if (tile + 1 == tiles)
                for (int row = 0; row < 2; ++row) one_over[row] = rescaling.one_over[rows[row]];
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.weighed[p.at]);
            barrier_sync(weighers_barrier, weighers);  // nobody reads the tile any more
            gathering.ask(memory);
            turn.next();
            p.next();
        }
        store_out(work, item, out, one_over, half * d_v / 2);
    }
}

__global__ void __launch_bounds__(threads, 1) attend(Work work, const __grid_constant__ TensorMap q) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.q_full, 1);
        for (Mbarrier& full : memory.full) mbarrier_init(full, weighers);
        for (int i = 0; i < buffers; ++i) {
            mbarrier_init(memory.scored[i], 4);
            mbarrier_init(memory.weighed[i], 8);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int job = static_cast<int>(threadIdx.x) / warpgroup;
    if (job == 0)
        Scorer(memory, work, q).run();
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
