// Level 5. The keys' and the head weights' products, x W_kI and x W_w, as one: x is read once, and there are blocks
// enough to read it, since those of a cluster divide k. Bound: x's bytes, 2 T D. As two products of level 3 they were
// 32 and 64 blocks of all of k at T = 4096, the two of them longer than half of the queries' product.
#include <algorithm>

#include "optimized/hopper/cluster.h"
#include "optimized/hopper/mbarrier.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/ring.h"
#include "optimized/hopper/warp.h"
#include "optimized/indexer_project/op.h"
#include "optimized/linear/fragments.cuh"
#include "optimized/linear/maps.cuh"
#include "optimized/support/launch.h"
#include "optimized/support/multiprocessors.h"

namespace dsa {
namespace {

constexpr int consumers = 2;          // warpgroups
constexpr int rows = 64 * consumers;  // of x, a cluster
constexpr int depth = 64;             // of k, a stage: as wide as the swizzle
constexpr int step = 16;              // of k, an instruction
constexpr int panel = 64;             // columns
constexpr int stages = 5;
constexpr int threads = 128 * (1 + consumers);
constexpr int most_blocks = 8;  // of a cluster
constexpr int at_once = 4;      // columns that a thread stores
constexpr Swizzle wide = Swizzle::bytes_128;

// key_panels of W_kI, then one of W_w, filled up with zeros.
template <int key_panels>
struct Memory {
    static constexpr int columns = (key_panels + 1) * panel;
    static constexpr int padded = columns + 8;  // eight rows' pairs lie in different banks
    struct Stage {
        alignas(1024) bf16 x[rows * depth];     // [row, k]
        alignas(1024) bf16 w[columns * depth];  // [panel, k, n]
    };
    union {
        Stage stage[stages];
        float sums[rows][padded];  // over this block's k, when all stages are done with
    };
    Mbarrier full[stages];   // the producer's arrival and the stage's bytes
    Mbarrier empty[stages];  // an arrival a consumer warp
};

using Turn = RingTurn<stages>;

// A block's share of k, in stages.
struct Share {
    int first, end;
};

struct Maps {
    TensorMap x;    // [T, D]
    TensorMap w_k;  // [D, D_I]
    TensorMap w_w;  // [D, H_I]
};

// One lane of one warp.
template <int key_panels>
__device__ void produce(Memory<key_panels>& memory, const Maps& maps, int row, Share share) {
    Turn turn;
    for (int at = share.first; at < share.end; ++at, turn.next()) {
        auto& stage = memory.stage[turn.stage];
        Mbarrier& full = memory.full[turn.stage];
        const int k = at * depth;
        mbarrier_wait_in_block(memory.empty[turn.stage], turn.parity ^ 1);
        mbarrier_arrive_expect(full, static_cast<int>(sizeof stage.x + sizeof stage.w));
        tma_load(stage.x, maps.x, {k, row, 0}, full);
#pragma unroll
        for (int i = 0; i < key_panels; ++i) tma_load(stage.w + i * panel * depth, maps.w_k, {i * panel, k, 0}, full);
        tma_load(stage.w + key_panels * panel * depth, maps.w_w, {0, k, 0}, full);
    }
}

// One warpgroup's 64 rows, over the block's share of k.
template <int key_panels, int half_columns>
__device__ void multiply(Memory<key_panels>& memory, float (&sums)[half_columns], int consumer, Share share) {
    constexpr Form form{.b_is_mn_major = true};
    Turn turn;
    int before = 0;
    for (int at = share.first; at < share.end; ++at, turn.next()) {
        mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
        const auto& stage = memory.stage[turn.stage];
        const Descriptor x = k_major(stage.x + consumer * 64 * depth, wide);
        const Descriptor w = mn_major(stage.w, panel * depth * 2, wide);
        wgmma_fence();
#pragma unroll
        for (int part = 0; part < depth / step; ++part)
            wgmma<bf16, form>(sums, advanced(x, part * step * 2), advanced(w, part * step * panel * 2),
                              at > share.first || part > 0);
        wgmma_commit();
        if (at > share.first) {  // the products of the stage before are done
            wgmma_wait<1>();
            __syncwarp();
            if (lane_id() == 0) mbarrier_arrive(memory.empty[before]);
        }
        before = turn.stage;
    }
    wgmma_wait<0>();
    hold(sums);
}

struct alignas(8) FourBf16 {
    std::uint32_t pairs[2];
};
struct alignas(16) FourFloats {
    float of[at_once];
};

// The cluster's sums, in the order of its blocks; each block stores a share of them.
template <int key_panels>
__device__ void add_and_store(Memory<key_panels>& memory, const IndexerProject& call, bf16* k, int row) {
    constexpr int fours = Memory<key_panels>::columns / at_once;
    constexpr int keys = key_panels * panel;
    const int size = cluster_size();
    const int H_I = static_cast<int>(call.H_I);
    for (int i = cluster_rank() * threads + static_cast<int>(threadIdx.x); i < rows * fours; i += size * threads) {
        const int r = i / fours, column = i % fours * at_once;
        if (row + r >= call.T || column - keys >= H_I) continue;
        FourFloats sum{};
        for (int rank = 0; rank < size; ++rank) {
            const auto its = *of_block(reinterpret_cast<FourFloats*>(&memory.sums[r][column]), rank);
#pragma unroll
            for (int j = 0; j < at_once; ++j) sum.of[j] += its.of[j];
        }
        const std::int64_t t = row + r;
        if (column < keys)
            *reinterpret_cast<FourBf16*>(k + t * keys + column) = {to_bf16_pair(sum.of[0], sum.of[1]),
                                                                   to_bf16_pair(sum.of[2], sum.of[3])};
        else
            *reinterpret_cast<FourFloats*>(call.weights + t * H_I + column - keys) = sum;
    }
}

template <int key_panels>
__global__ void __launch_bounds__(threads, 1)
    indexer_narrow(const __grid_constant__ Maps maps, const __grid_constant__ IndexerProject call, bf16* k) {
    auto& memory = shared<Memory<key_panels>>();
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages; ++s) {
            mbarrier_init(memory.full[s], 1);
            mbarrier_init(memory.empty[s], 4 * consumers);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const int size = cluster_size(), rank = cluster_rank();
    const int row = static_cast<int>(blockIdx.x) / size * rows;
    const int in_k = static_cast<int>((call.D + depth - 1) / depth);
    const Share share{rank * in_k / size, (rank + 1) * in_k / size};
    const int warpgroup = static_cast<int>(threadIdx.x) / 128;
    float sums[Memory<key_panels>::columns / 2];
    if (warpgroup == 0) {
        if (warp_id() == 0 && elect_one()) produce(memory, maps, row, share);
        __syncwarp();
    } else {
        multiply(memory, sums, warpgroup - 1, share);
    }
    __syncthreads();  // all products are done: the stages become room for sums
    if (warpgroup > 0) {
        const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
        for (int i = 0; i < Memory<key_panels>::columns / 2; ++i)
            memory.sums[(warpgroup - 1) * 64 + wgmma_row(thread, i)][wgmma_column(thread, i)] = sums[i];
    }
    cluster_sync();
    add_and_store(memory, call, k, row);
    cluster_sync();  // others still read this block's sums
}

// Blocks of a cluster: as many as run at once, each with a stage at least. Clusters of more than two leave
// multiprocessors idle, since a GPC has no whole number of them.
int blocks_of_cluster(std::int64_t tiles, std::int64_t D) {
    int most = 1;
    for (int blocks = 2; blocks <= most_blocks && D >= blocks * depth; ++blocks)
        if (tiles * blocks <= (blocks == 2 ? multiprocessors : multiprocessors * 3 / 4)) most = blocks;
    return most;
}

template <int key_panels>
void start(const IndexerProject& call, bf16* k) {
    const auto map_of_columns = [&](const char* name, const bf16* w, std::int64_t columns) {
        return map_of(name, w, columns, call.D, 1, columns, 0, depth);
    };
    const std::int64_t tiles = blocks_for(call.T, rows);
    const int cluster = blocks_of_cluster(tiles, call.D);
    launch("indexer_narrow", indexer_narrow<key_panels>,
           {.blocks = tiles * cluster,
            .threads = threads,
            .shared_bytes = sizeof(Memory<key_panels>),
            .stream = call.stream,
            .cluster = cluster},
           Maps{map_of("x", call.x, call.D, call.T, 1, call.D, 0, rows), map_of_columns("W_kI", call.W_kI, call.D_I),
                map_of_columns("W_w", call.W_w, call.H_I)},
           call, k);
}

}  // namespace

std::string indexer_narrow_products_declines(const IndexerProject& call) {
    if (call.W_w == nullptr) return "W_w must be bf16; it is float32";
    if (call.D_I != 64 && call.D_I != 128) return sentence("keys must be of 64 or 128 numbers; D_I is ", call.D_I);
    if (call.H_I > panel || call.H_I % 8 != 0)
        return sentence("H_I must be a multiple of 8 up to ", panel, "; it is ", call.H_I);
    return {};
}

void indexer_narrow_products(const IndexerProject& call, bf16* k) {
    if (call.D_I == 64) start<1>(call, k);
    if (call.D_I == 128) start<2>(call, k);
}

}  // namespace dsa
