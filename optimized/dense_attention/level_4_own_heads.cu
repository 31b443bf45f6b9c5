// Level 4. MHA on wgmma: the same producer and cluster, for keys and values of each head's own. A block has 128
// queries of a head, 64 of each warpgroup, and the two blocks of a cluster share the head's keys. A warpgroup has all
// of its rows' columns, so nothing goes from one to the other; q k^T of the next tile is issued ahead of p v of this
// one, which then runs beside the next softmax.
#include "optimized/dense_attention/fragments.cuh"
#include "optimized/dense_attention/leave.cuh"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/ring.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using dense_latents::store_boxes;
using dense_latents::warpgroup;
using latent_tile::Panel;
using latent_tile::panel_columns;
using latent_tile::row_bytes;
using latent_tile::wide;

constexpr int d = 192, d_v = 128;
constexpr int threads = 3 * warpgroup;
constexpr int blocks = 2;  // of a cluster
constexpr int warpgroup_rows = 64, block_rows = 128, cluster_rows = blocks * block_rows;
constexpr int tile_keys = 128, brought = tile_keys / blocks;  // rows of a tile that a block brings
constexpr int stages = 2;
constexpr int key_panels = d / panel_columns, value_panels = d_v / panel_columns;
constexpr int apart = tile_keys * row_bytes;  // of a tile's panels
constexpr float one_over_ln2 = 1.44269504088896340736F;

struct alignas(1024) Keys {
    unsigned char at[key_panels * apart];  // [key_panels, tile_keys, panel_columns]
};
struct alignas(1024) Values {
    unsigned char at[value_panels * apart];  // [value_panels, tile_keys, panel_columns]
};
struct Shared {
    Keys keys[stages];
    Values values[stages];
    Panel q[2][key_panels];  // each warpgroup's; at the end its result
    Mbarrier q_full, keys_full[stages], values_full[stages];
    Mbarrier keys_empty[stages], values_empty[stages];  // of both blocks
};

using Turn = RingTurn<stages>;

// A cluster's: 256 queries of a head, the last ones, who see most, first.
struct Work {
    Seen seen;
    AttentionResult result;
    int T, H, query_tiles;

    __device__ int cluster() const { return static_cast<int>(blockIdx.x) / blocks; }
    __device__ int head() const { return cluster() / query_tiles; }
    __device__ int first_of_cluster() const { return (query_tiles - 1 - cluster() % query_tiles) * cluster_rows; }
    __device__ int first_row(int half) const {
        return first_of_cluster() + cluster_rank() * block_rows + half * warpgroup_rows;
    }
    // Whole warps come. Positions that any of the queries sees: first, and how many tiles.
    __device__ void range(int& first, int& tiles) const {
        const int last = min(first_of_cluster() + cluster_rows, T) - 1;
        auto least = static_cast<std::int32_t>(seen.S);
        for (int t = first_of_cluster() + lane_id(); t <= last; t += warp_size)
            least = min(least, static_cast<std::int32_t>(min(seen.first(t), seen.S)));
        first = redux_min(least);
        tiles = max(1, (static_cast<int>(seen.end(last)) - first + tile_keys - 1) / tile_keys);
    }
};

// One warp, one lane of which asks.
__device__ void bring(Shared& memory, const Work& work, const TensorMap& q, const TensorMap& k, const TensorMap& v) {
    int first, tiles;
    work.range(first, tiles);
    if (lane_id() != 0) return;
    const int rank = cluster_rank(), head = work.head();
    mbarrier_arrive_expect(memory.q_full, sizeof memory.q);
    for (int half = 0; half < 2; ++half)
        for (int panel = 0; panel < key_panels; ++panel)
            tma_load(&memory.q[half][panel], q, {panel * panel_columns, head, work.first_row(half)}, memory.q_full);
    Turn turn;
    const auto part = [&](unsigned char* tile, const TensorMap& from, int tile_at, int panels, Mbarrier& full) {
        mbarrier_arrive_expect(full, panels * apart);
        for (int panel = 0; panel < panels; ++panel)
            tma_load_multicast(tile + panel * apart + rank * brought * row_bytes, from,
                               {panel * panel_columns, head, tile_at + rank * brought}, full, (1U << blocks) - 1);
    };
    for (int tile = 0; tile < tiles; ++tile, turn.next()) {
        const int at = first + tile * tile_keys;
        mbarrier_wait(memory.keys_empty[turn.stage], turn.parity ^ 1);
        part(memory.keys[turn.stage].at, k, at, key_panels, memory.keys_full[turn.stage]);
        mbarrier_wait(memory.values_empty[turn.stage], turn.parity ^ 1);
        part(memory.values[turn.stage].at, v, at, value_panels, memory.values_full[turn.stage]);
    }
}

__device__ void attend_rows(Shared& memory, const Work& work, const TensorMap& out_map, int half) {
    const int lane = lane_id();
    const float to_log2 = work.result.scale * one_over_ln2;
    const auto release = [&](Mbarrier& empty) {
        __syncwarp();
        if (lane == 0)
            for (int rank = 0; rank < blocks; ++rank) mbarrier_give_back_at(empty, rank);
    };
    int first, tiles;
    work.range(first, tiles);
    Limits limits;
    int rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        rows[i] = work.first_row(half) + wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        const int t = min(rows[i], work.T - 1);
        limits.first[i] = static_cast<int>(work.seen.first(t));
        limits.end[i] = static_cast<int>(work.seen.end(t));
    }
    latent_tile::RunningSoftmax softmax;
    float out[d_v / 2];      // [64, d_v]
    float s[tile_keys / 2];  // [64, tile_keys]
    Weights<tile_keys> p;
    Turn turn;
    const auto score = [&](const Turn& of) {
        mbarrier_wait_in_block(memory.keys_full[of.stage], of.parity);
        hold(s);
        wgmma_fence();
        latent_tile::score<key_panels, apart>(s, memory.q[half], memory.keys[__shfl_sync(all_lanes, of.stage, 0)].at,
                                              false);
        wgmma_commit();
    };
    const auto weigh = [&](const Turn& of, bool add) {
        mbarrier_wait_in_block(memory.values_full[of.stage], of.parity);
        hold(out);
        wgmma_fence();
        weigh_from_registers<apart>(out, p, memory.values[__shfl_sync(all_lanes, of.stage, 0)].at, add);
        wgmma_commit();
    };
    const auto soften = [&](int tile) {
        limits.hide(s, first + tile * tile_keys);
        return softmax.step(s, {0xffffffffU, 0xffffffffU, 0xffffffffU, 0xffffffffU}, to_log2);
    };
    mbarrier_wait_in_block(memory.q_full, 0);
    score(turn);
    wgmma_wait<0>();
    hold(s);
    release(memory.keys_empty[turn.stage]);
    soften(0);
    round_weights(p, s);
    for (int tile = 0; tile + 1 < tiles; ++tile) {
        const Turn now = turn;
        turn.next();
        score(turn);
        weigh(now, tile > 0);
        wgmma_wait<1>();
        hold(s);
        release(memory.keys_empty[turn.stage]);
        const bool rises = soften(tile + 1);
        wgmma_wait<0>();
        hold(out);
        release(memory.values_empty[now.stage]);
        if (rises) rescale(out, softmax.factor);
        round_weights(p, s);
    }
    weigh(turn, tiles > 1);
    wgmma_wait<0>();
    hold(out);
    const int head = work.head();
    float by[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float sum = softmax.total(i), reference = softmax.reference[i] * work.result.scale;
        by[i] = reference == minus_infinity() ? 0.0F : 1.0F / denominator(work.result, head, reference, sum);
        if (lane % 4 == 0 && rows[i] < work.T)
            work.result.lse[std::int64_t{rows[i]} * work.H + head] = told_lse(work.result, reference, sum);
    }
    const auto write = [&](unsigned char* box, int panel) { dense_latents::write_panel(box, out, panel, by); };
    store_boxes<value_panels>(reinterpret_cast<unsigned char*>(memory.q[half]), half, write,
                              [&](const unsigned char* box, int panel) {
                                  tma_store(out_map, {panel * panel_columns, head, work.first_row(half)}, box);
                              });
    if (threadIdx.x % warpgroup == 0) bulk_wait<0>();
}

__global__ void __launch_bounds__(threads, 1)
    attend(Work work, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k,
           const __grid_constant__ TensorMap v, const __grid_constant__ TensorMap out) {
    Shared& memory = shared<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(memory.q_full, 1);
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(memory.keys_full[i], 1);
            mbarrier_init(memory.values_full[i], 1);
            mbarrier_init(memory.keys_empty[i], 8 * blocks);
            mbarrier_init(memory.values_empty[i], 8 * blocks);
        }
        fence_mbarrier_init();
    }
    cluster_sync();
    const int job = static_cast<int>(threadIdx.x) / warpgroup;
    if (job == 0) {
        give_back_registers<40>();
        if (warp_id() == 0) bring(memory, work, q, k, v);
    } else {
        take_registers<232>();
        attend_rows(memory, work, out, job - 1);
    }
    cluster_sync();  // the other block arrives at this one's barriers
}

// [rows, H, width] in boxes of 64 rows of a head by 64 columns.
TensorMap of_heads(const char* name, const bf16* address, std::int64_t rows, std::int64_t H, int width) {
    Tiled how;
    how.element = Element::bf16;
    how.address = address;
    how.rank = 3;
    how.extent[0] = static_cast<std::uint64_t>(width);
    how.extent[1] = static_cast<std::uint64_t>(H);
    how.extent[2] = static_cast<std::uint64_t>(rows);
    how.stride[1] = static_cast<std::uint64_t>(width) * sizeof(bf16);
    how.stride[2] = how.stride[1] * how.extent[1];
    how.box[0] = panel_columns;
    how.box[1] = 1;
    how.box[2] = 64;
    how.swizzle = wide;
    return tensor_map(name, how);
}

}  // namespace

std::string dense_attention_level_4_declines(const DenseAttention& call) {
    if (call.mqa) return "it is of MHA only";
    if (call.d != d || call.d_v != d_v)
        return sentence("a head has keys of ", d, " and values of ", d_v, " numbers; here ", call.d, " and ",
                        call.d_v);
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() - cluster_rows;
    if (call.T > most || call.S > most)
        return sentence("T and S must be below 2^31; they are ", call.T, " and ", call.S);
    if (call.S == 0) return "there are no positions";
    if (!(call.result.scale > 0)) return sentence("the scale must be positive; it is ", call.result.scale);
    return {};
}

void dense_attention_level_4(const DenseAttention& call) {
    if (call.T == 0 || call.H == 0) return;
    const Work work{{call.start, call.T, call.S, call.causal},
                    call.result,
                    static_cast<int>(call.T),
                    static_cast<int>(call.H),
                    static_cast<int>(blocks_for(call.T, cluster_rows))};
    launch("dense_attention_own_heads", attend,
           {.blocks = std::int64_t{work.query_tiles} * call.H * blocks,
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .cluster = blocks},
           work, of_heads("q", call.q, call.T, call.H, d), of_heads("k", call.keys, call.S, call.H, d),
           of_heads("v", call.values, call.S, call.H, d_v), of_heads("out", call.result.out, call.T, call.H, d_v));
}

}  // namespace dsa
