// Level 1. A block of threads makes a tile of y, 32 x 32: it brings 32 columns of x and 32 rows of W at a time to
// shared memory, as float32, and each thread adds products for 4 x 4 numbers of y. So a number brought serves 32
// products.
#include "optimized/linear/rows.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int tile = 32;
constexpr int own = 4;  // rows, and columns, of a thread
constexpr int across = tile / own;
constexpr int threads = across * across;

struct Shared {
    float x[tile][tile + 1];  // [row, k]; a column more, so that rows begin in different banks
    float w[tile][tile + 1];  // [k, n]
};

__device__ float x_at(const Linear& call, std::int64_t h, std::int64_t row, std::int64_t k) {
    const std::int64_t from = x_row_of(call, row);
    const std::int64_t at = h * call.x_head + from * call.x_row + k;
    if (call.x_float32 != nullptr) return call.x_float32[at];
    if (call.x != nullptr) return to_float(call.x[at]);
    return to_float(call.x_e4m3[at]) * x_scale_of(call, from, k);
}
__device__ float w_at(const Linear& call, std::int64_t h, std::int64_t k, std::int64_t n) {
    const std::int64_t at = h * call.w_head + k * call.w_k + n * call.w_n;
    if (call.w != nullptr) return to_float(call.w[at]);
    if (call.w_float32 != nullptr) return call.w_float32[at];
    return to_float(call.w_e4m3[at]) * w_scale_of(call, h, k, n);
}

__global__ void __launch_bounds__(threads) linear_tile(__grid_constant__ const Linear call) {
    Shared& memory = shared<Shared>();
    const std::int64_t h = blockIdx.z;
    const Rows rows = rows_of(call, h);
    const std::int64_t row_0 = std::int64_t{blockIdx.y} * tile;
    const std::int64_t n_0 = std::int64_t{blockIdx.x} * tile;
    if (row_0 >= rows.count) return;
    const int my_row = static_cast<int>(threadIdx.x) / across;
    const int my_column = static_cast<int>(threadIdx.x) % across;
    float sum[own][own] = {};  // rows my_row + 8 i, columns my_column + 8 j
    for (std::int64_t k_0 = 0; k_0 < call.K; k_0 += tile) {
        for (int i = static_cast<int>(threadIdx.x); i < tile * tile; i += threads) {
            const int r = i / tile;
            const int c = i % tile;
            const bool in_x = row_0 + r < rows.count && k_0 + c < call.K;
            const bool in_w = k_0 + r < call.K && n_0 + c < call.N;
            memory.x[r][c] = in_x ? x_at(call, h, rows.first + row_0 + r, k_0 + c) : 0.0F;
            memory.w[r][c] = in_w ? w_at(call, h, k_0 + r, n_0 + c) : 0.0F;
        }
        __syncthreads();
        for (int k = 0; k < tile; ++k)
#pragma unroll
            for (int i = 0; i < own; ++i)
#pragma unroll
                for (int j = 0; j < own; ++j)
                    sum[i][j] += memory.x[my_row + across * i][k] * memory.w[k][my_column + across * j];
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < own; ++i)
#pragma unroll
        for (int j = 0; j < own; ++j) {
            const std::int64_t row = row_0 + my_row + across * i;
            const std::int64_t n = n_0 + my_column + across * j;
            if (row < rows.count && n < call.N) store_y(call, h, rows.first + row, n, sum[i][j]);
        }
}

}  // namespace

void linear_level_1(const Linear& call) {
    launch("linear_tile", linear_tile,
           {.blocks = blocks_for(call.N, tile),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.T, tile),
            .blocks_z = call.heads},
           call);
}

}  // namespace dsa
