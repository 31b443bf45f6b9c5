// Level 1. A block makes a tile of y, 32 x 32: it brings 32 rows of x's columns and of dy's at a time to shared
// memory, as float32, and each thread adds products for 4 x 4 numbers of y.
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"
#include "optimized/weight_gradient/weight_gradient.h"

namespace dsa {
namespace {

constexpr int tile = 32;
constexpr int own = 4;  // rows, and columns, of a thread
constexpr int across = tile / own;
constexpr int threads = across * across;

struct Shared {
    float x[tile][tile + 1];   // [row, m]
    float dy[tile][tile + 1];  // [row, n]
};

__device__ float dy_at(const WeightGradient& call, std::int64_t at) {
    return call.dy_float32 != nullptr ? call.dy_float32[at] : to_float(call.dy[at]);
}

__global__ void __launch_bounds__(threads) weight_gradient_tile(__grid_constant__ const WeightGradient call) {
    Shared& memory = shared<Shared>();
    const std::int64_t h = blockIdx.z;
    const std::int64_t begin = call.first_row == nullptr ? 0 : call.first_row[h];
    const std::int64_t end = call.first_row == nullptr ? call.rows : call.first_row[h + 1];
    const std::int64_t n_0 = std::int64_t{blockIdx.x} * tile;
    const std::int64_t m_0 = std::int64_t{blockIdx.y} * tile;
    const int my_m = static_cast<int>(threadIdx.x) / across;
    const int my_n = static_cast<int>(threadIdx.x) % across;
    float sum[own][own] = {};  // m my_m + 8 i, n my_n + 8 j
    for (std::int64_t row_0 = begin; row_0 < end; row_0 += tile) {
        for (int i = static_cast<int>(threadIdx.x); i < tile * tile; i += threads) {
            const std::int64_t row = row_0 + i / tile;
            const std::int64_t m = m_0 + i % tile;
            const std::int64_t n = n_0 + i % tile;
            const bool is_here = row < end;
            const std::int64_t from = is_here && call.row_of != nullptr ? call.row_of[row] : row;
            memory.x[i / tile][i % tile] = is_here && m < call.M ? to_float(call.x[from * call.M + m]) : 0.0F;
            memory.dy[i / tile][i % tile] = is_here && n < call.N ? dy_at(call, row * call.N + n) : 0.0F;
        }
        __syncthreads();
        for (int k = 0; k < tile; ++k)
#pragma unroll
            for (int i = 0; i < own; ++i)
#pragma unroll
                for (int j = 0; j < own; ++j)
                    sum[i][j] += memory.x[k][my_m + across * i] * memory.dy[k][my_n + across * j];
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < own; ++i)
#pragma unroll
        for (int j = 0; j < own; ++j) {
            const std::int64_t m = m_0 + my_m + across * i;
            const std::int64_t n = n_0 + my_n + across * j;
            if (m < call.M && n < call.N) call.y[(h * call.M + m) * call.N + n] = sum[i][j];
        }
}

}  // namespace

void weight_gradient_level_1(const WeightGradient& call) {
    launch("weight_gradient_tile", weight_gradient_tile,
           {.blocks = blocks_for(call.N, tile),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.M, tile),
            .blocks_z = call.heads},
           call);
}

}  // namespace dsa
