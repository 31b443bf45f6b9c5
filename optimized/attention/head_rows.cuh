// Rows of heads on their way out: from wgmma's fragments to panels in shared memory, and by tensor stores to where
// they belong.
#pragma once

#include "optimized/attention/latent_tile.cuh"
#include "optimized/hopper/afresh.h"
#include "optimized/hopper/tensor_map.h"

namespace dsa::latent_tile {

// What of a tensor [queries, H, d_v] a tensor store takes: some heads of a query by 128 bytes; heads past the last
// one are not stored.
template <class T>
TensorMap heads_map(const char* name, const T* address, std::int64_t queries, std::int64_t H, int box = heads) {
    Tiled how;
    how.element = element_of<T>();
    how.address = address;
    how.rank = 3;
    how.extent[0] = d_v;
    how.extent[1] = static_cast<std::uint64_t>(H);
    how.extent[2] = static_cast<std::uint64_t>(queries);
    how.stride[1] = d_v * sizeof(T);
    how.stride[2] = how.stride[1] * how.extent[1];
    how.box[0] = row_bytes / static_cast<int>(sizeof(T));
    how.box[1] = static_cast<std::uint32_t>(box);
    how.box[2] = 1;
    how.swizzle = wide;
    return tensor_map(name, how);
}

// Sums times one_over to panels in shared memory, K-major as a tensor store with a box of 64 columns reads them,
// `between` bytes apart. Addresses are made here each time, and hold no registers before.
template <int between, int half_n>
__device__ void store_panels(const float* sums, const float (&one_over)[2], unsigned char* to) {
    const int thread = afresh(static_cast<int>(threadIdx.x)), lane = thread % 32, matrix = lane / 8;
    const int row = wgmma_row(thread, 0) / 16 * 16 + lane % 8 + matrix % 2 * 8;
#pragma unroll
    for (int j = 0; j < half_n / 8; ++j) {
        std::uint32_t four[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            four[i] = to_bf16_pair(sums[8 * j + 2 * i] * one_over[i % 2], sums[8 * j + 2 * i + 1] * one_over[i % 2]);
        store_matrices(four, to + j / steps * between + place_of_piece(row, 2 * (j % steps) + matrix / 2));
    }
}

struct alignas(8) TwoSums {
    float at[2];
};

// float32 sums from the first-th on, `each` of them a thread, to panels of 32 columns.
template <int each, int half_n>
__device__ void store_sums(const float (&sums)[half_n], int first, unsigned char* to) {
    constexpr int columns = row_bytes / 4;  // of a panel
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int i = 0; i < each; i += 2) {
        const int row = wgmma_row(thread, i), column = wgmma_column(thread, i);
        const auto offset = static_cast<std::uint32_t>(row * row_bytes + column % columns * 4);
        *reinterpret_cast<TwoSums*>(to + column / columns * static_cast<int>(sizeof(Panel)) +
                                    swizzled_offset(offset, wide)) = {{sums[first + i], sums[first + i + 1]}};
    }
}

}  // namespace dsa::latent_tile
