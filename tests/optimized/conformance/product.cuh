// A warp-specialised product C [M, N] = A [M, K] B [N, K]^T of bf16, as small as one can be with all its parts: a
// producer warp that brings tiles by tensor copies into a ring of stages, two consumer warpgroups that multiply them by
// wgmma, and tensor stores of what they made. In a cluster each block brings one share of B's tile to all of them.
//
// The ring: full[s] counts the producer's arrival and the bytes of stage s; empty[s] counts one arrival a consumer warp
// of each block of the cluster, because the tile that each of these warps has read is written by all blocks.
#pragma once

#include "experiment.h"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/matrix.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/tma.h"
#include "optimized/hopper/warp.h"
#include "optimized/hopper/wgmma.h"

namespace dsa::conformance {

inline constexpr int stages = 3;
inline constexpr int consumers = 2;                // warpgroups, 64 rows of C each
inline constexpr int tile_m = 64 * consumers, tile_n = 128, tile_k = 64;
inline constexpr int panel = 64;                   // columns of 128 bytes: as wide as the swizzle
inline constexpr Swizzle wide = Swizzle::bytes_128;

struct Stage {
    alignas(1024) bf16 a[tile_m * tile_k];  // [tile_m, tile_k], rows of 128 bytes
    alignas(1024) bf16 b[tile_n * tile_k];  // [tile_n, tile_k]
};
struct ProductMemory {
    Stage stage[stages];
    alignas(1024) bf16 c[consumers][tile_n / panel][64 * panel];
    Mbarrier full[stages];
    Mbarrier empty[stages];
};

// Where the ring is: stage and how often it has been round.
struct Turn {
    int stage = 0, parity = 0;
    __device__ void next() {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

// One lane of one warp.
template <int cluster>
__device__ void produce(ProductMemory& memory, const TensorMap& a, const TensorMap& b, int row, int column, int k) {
    constexpr int share = tile_n / cluster;  // of B's rows
    const int rank = cluster == 1 ? 0 : cluster_rank();
    Turn turn;
    for (int at = 0; at < k; at += tile_k, turn.next()) {
        Stage& stage = memory.stage[turn.stage];
        Mbarrier& full = memory.full[turn.stage];
        mbarrier_wait(memory.empty[turn.stage], turn.parity ^ 1);
        mbarrier_arrive_expect(full, static_cast<int>(sizeof stage.a + sizeof stage.b));
        tma_load(stage.a, a, {at, row}, full);
        if constexpr (cluster == 1)
            tma_load(stage.b, b, {at, column}, full);
        else
            tma_load_multicast(stage.b + rank * share * tile_k, b, {at, column + rank * share}, full,
                               static_cast<std::uint16_t>((1 << cluster) - 1));
    }
}

// The stage is free, say this warp's lanes together, to every block that writes into it.
template <int cluster>
__device__ void release(Mbarrier& empty) {
    __syncwarp();
    if (lane_id() < cluster) mbarrier_arrive_at(empty, lane_id());
}

__device__ inline std::uint32_t pair_of(float low, float high) {
    return to_bf16(low).bits | static_cast<std::uint32_t>(to_bf16(high).bits) << 16;
}

// One warpgroup.
template <int cluster>
__device__ void consume(ProductMemory& memory, const TensorMap& c, int row, int column, int k, int consumer) {
    float sums[tile_n / 2];
    Turn turn, before;
    for (int at = 0; at < k; at += tile_k, turn.next()) {
        mbarrier_wait(memory.full[turn.stage], turn.parity);
        const Descriptor a = k_major(memory.stage[turn.stage].a + consumer * 64 * tile_k, wide);
        const Descriptor b = k_major(memory.stage[turn.stage].b, wide);
        wgmma_fence();
#pragma unroll
        for (int part = 0; part < tile_k / 16; ++part)
            wgmma<bf16>(sums, advanced(a, 32 * part), advanced(b, 32 * part), at > 0 || part > 0);
        wgmma_commit();
        if (at > 0) {  // the products before these are done
            wgmma_wait<1>();
            release<cluster>(memory.empty[before.stage]);
            before.next();
        }
    }
    wgmma_wait<0>();
    hold(sums);

    // Into panels of 128 bytes a row, swizzled as the tensor store reads them.
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4, lane = lane_id();
#pragma unroll
    for (int j = 0; j < tile_n / 16; ++j) {
        const std::uint32_t four[4] = {
            pair_of(sums[8 * j], sums[8 * j + 1]), pair_of(sums[8 * j + 2], sums[8 * j + 3]),
            pair_of(sums[8 * j + 4], sums[8 * j + 5]), pair_of(sums[8 * j + 6], sums[8 * j + 7])};
        const int matrix = lane / 8;
        const int r = 16 * warp + lane % 8 + matrix % 2 * 8, col = 16 * j % panel + matrix / 2 * 8;
        auto* tile = reinterpret_cast<unsigned char*>(memory.c[consumer][16 * j / panel]);
        store_matrices(four, tile + swizzled_offset(static_cast<std::uint32_t>(r * 128 + col * 2), wide));
    }
    fence_proxy_async();
    barrier_sync(1 + consumer, 128);
    if (threadIdx.x % 128 == 0) {
        for (int p = 0; p < tile_n / panel; ++p)
            tma_store(c, {column + p * panel, row + consumer * 64}, memory.c[consumer][p]);
        bulk_commit();
        bulk_wait_read<0>();
    }
}

// blocks: M / 128 by N / 128; threads: one warpgroup of which one warp produces, and the consumers.
template <int cluster>
__global__ void __launch_bounds__(128 * (1 + consumers), 1)
    product(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
            const __grid_constant__ TensorMap c, int k) {
    ProductMemory& memory = shared<ProductMemory>();
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages; ++s) {
            mbarrier_init(memory.full[s], 1);
            mbarrier_init(memory.empty[s], 4 * consumers * cluster);
        }
        fence_mbarrier_init();
    }
    if constexpr (cluster == 1)
        __syncthreads();
    else
        cluster_sync();
    const int row = static_cast<int>(blockIdx.x) * tile_m, column = static_cast<int>(blockIdx.y) * tile_n;
    const int warpgroup = static_cast<int>(threadIdx.x) / 128;
    if (warpgroup == 0) {
        give_back_registers<40>();
        if (warp_id() == 0 && elect_one()) produce<cluster>(memory, a, b, row, column, k);
        __syncwarp();
    } else {
        take_registers<232>();
        consume<cluster>(memory, c, row, column, k, warpgroup - 1);
    }
    // The others may still write into this block's stages, or arrive at its barriers.
    if constexpr (cluster > 1) cluster_sync();
}

// C of whole numbers; bf16 holds it where its numbers are at most 256.
template <int cluster>
Bytes product_of_whole_numbers(int m, int n, int k) {
    Whole whole(7);
    std::vector<std::uint16_t> a(static_cast<std::size_t>(m * k)), b(static_cast<std::size_t>(n * k));
    for (std::uint16_t& x : a) x = bf16_of(whole() % 2);
    for (std::uint16_t& x : b) x = bf16_of(whole());
    const OnDevice<std::uint16_t> on_a(a), on_b(b), on_c(static_cast<std::size_t>(m * n));
    const auto map = [](const char* name, const OnDevice<std::uint16_t>& x, int rows, int columns, int box_rows) {
        return matrix_map(name, x.data(), rows, columns, columns, box_rows, panel, wide);
    };
    launch("product", product<cluster>,
           {.blocks = (m + tile_m - 1) / tile_m,
            .threads = 128 * (1 + consumers),
            .shared_bytes = sizeof(ProductMemory),
            .blocks_y = (n + tile_n - 1) / tile_n,
            .cluster = cluster},
           map("a", on_a, m, k, tile_m), map("b", on_b, n, k, tile_n / cluster), map("c", on_c, m, n, 64), k);
    return on_c.bytes();
}

}  // namespace dsa::conformance
