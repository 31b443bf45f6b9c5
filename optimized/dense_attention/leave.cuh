// How a warpgroup's sums of level 3 leave: half of the columns of 64 rows, as a result or as a part.
#pragma once

#include "optimized/dense_attention/parts.cuh"
#include "optimized/hopper/barrier.h"
#include "optimized/hopper/fence.h"
#include "optimized/hopper/tma.h"

namespace dsa::dense_latents {

using namespace latent_tile;

inline constexpr int half_d_v = d_v / 2;
inline constexpr int part_columns = row_bytes / 4;  // of a box of a part's sums, float32
enum : int { warpgroup_barrier = 1, both_barrier = 3 };

// A warpgroup's sums leave by tensor stores, two boxes of 64 rows of 128 bytes at a time: write(to, i) writes box i,
// store(from, i) stores it.
template <int boxes, class Write, class Store>
__device__ void store_boxes(unsigned char* place, int half, Write write, Store store) {
    constexpr int at_once = 2;
#pragma unroll
    for (int i = 0; i < boxes; i += at_once) {
        // All warps have weighed what lies there, or the store has read it.
        barrier_sync(warpgroup_barrier + half, warpgroup);
#pragma unroll
        for (int j = 0; j < at_once; ++j) write(place + j * static_cast<int>(sizeof(Panel)), i + j);
        fence_proxy_async_shared();
        barrier_sync(warpgroup_barrier + half, warpgroup);
        if (threadIdx.x % warpgroup != 0) continue;
#pragma unroll
        for (int j = 0; j < at_once; ++j) store(place + j * static_cast<int>(sizeof(Panel)), i + j);
        bulk_commit();
        bulk_wait_read<0>();
    }
}

// Panel `panel` of 64 rows of sums, times `by`, K-major as a tensor store reads it.
template <int half_n>
__device__ void write_panel(unsigned char* box, const float (&sums)[half_n], int panel, const float (&by)[2]) {
    const int lane = lane_id(), matrix = lane / 8;
    const int row = wgmma_row(static_cast<int>(threadIdx.x), 0) / 16 * 16 + lane % 8 + matrix % 2 * 8;
#pragma unroll
    for (int step = 0; step < steps; ++step) {
        std::uint32_t four[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = panel * panel_columns / 2 + 8 * step + 2 * i;
            four[i] = to_bf16_pair(sums[at] * by[i % 2], sums[at + 1] * by[i % 2]);
        }
        store_matrices(four, box + place_of_piece(row, 2 * step + matrix / 2));
    }
}

// Half of the columns of an item: by `by` to the result. to: [rows, d_v]
__device__ inline void leave_result(const Work& work, const TensorMap& to, int item, int half,
                                    const float (&out)[half_d_v / 2], const float (&by)[2], unsigned char* place) {
    store_boxes<value_panels / 2>(
        place, half, [&](unsigned char* box, int panel) { write_panel(box, out, panel, by); },
        [&](const unsigned char* box, int panel) {
            tma_store(to, {half * half_d_v + panel * panel_columns, work.first_row(item)}, box);
        });
}

// Or as they are, as a part. to: [parts, rows, d_v]
__device__ inline void leave_part(const Work& work, const TensorMap& to, int item, int half,
                                  const float (&out)[half_d_v / 2], unsigned char* place) {
    const auto write = [&](unsigned char* box, int piece) {
#pragma unroll
        for (int i = 0; i < part_columns / 2; i += 2) {
            const int row = wgmma_row(static_cast<int>(threadIdx.x), i);
            const auto offset =
                static_cast<std::uint32_t>(row * row_bytes + wgmma_column(static_cast<int>(threadIdx.x), i) * 4);
            const int at = piece * part_columns / 2 + i;
            *reinterpret_cast<Two*>(box + swizzled_offset(offset, wide)) = {{out[at], out[at + 1]}};
        }
    };
    store_boxes<half_d_v / part_columns>(place, half, write, [&](const unsigned char* box, int piece) {
        tma_store(to, {half * half_d_v + piece * part_columns, work.first_row(item), work.part(item)}, box);
    });
}

// Rows past the last one are not stored.
inline TensorMap parts_map(const Plan& plan, const Parts& parts) {
    Tiled how;
    how.element = Element::float32;
    how.address = parts.sums;
    how.rank = 3;
    how.extent[0] = d_v;
    how.extent[1] = static_cast<std::uint64_t>(plan.rows);
    how.extent[2] = static_cast<std::uint64_t>(plan.parts);
    how.stride[1] = d_v * sizeof(float);
    how.stride[2] = how.stride[1] * how.extent[1];
    how.box[0] = part_columns;
    how.box[1] = heads;
    how.box[2] = 1;
    how.swizzle = wide;
    return tensor_map("parts", how);
}

}  // namespace dsa::dense_latents
