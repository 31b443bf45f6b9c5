// Level 2. The tensor cores add along the numbers that lie side by side, and here those are tokens, which lie apart:
// the tiles of x and dy are turned on their way into shared memory. 64 x 64 numbers of y a block, 32 x 32 a warp.
#include "optimized/hopper/mma.h"
#include "optimized/support/launch.h"
#include "optimized/weight_gradient/weight_gradient.h"

namespace dsa {
namespace {

constexpr int tile = 64;
constexpr int warps = 4;
constexpr int threads = warps * warp_size;
constexpr int rows_each = 32;         // tokens at once
constexpr int pitch = rows_each + 8;  // so that rows begin in different banks
constexpr int step = mma_bytes / 2;   // tokens of a product
constexpr int warp_tile = 32;         // m, and n, of a warp
constexpr int m_tiles = warp_tile / mma_rows;
constexpr int n_tiles = warp_tile / mma_columns;

struct Shared {
    bf16 x[tile][pitch];   // [m, row]
    bf16 dy[tile][pitch];  // [n, row]
};

__global__ void __launch_bounds__(threads) weight_gradient_mma(__grid_constant__ const WeightGradient call) {
    Shared& memory = shared<Shared>();
    const std::int64_t h = blockIdx.z;
    const std::int64_t begin = call.first_row == nullptr ? 0 : call.first_row[h];
    const std::int64_t end = call.first_row == nullptr ? call.rows : call.first_row[h + 1];
    const std::int64_t n_0 = std::int64_t{blockIdx.x} * tile;
    const std::int64_t m_0 = std::int64_t{blockIdx.y} * tile;
    const int warp_m = warp_id() / 2 * warp_tile;
    const int warp_n = warp_id() % 2 * warp_tile;
    float sum[m_tiles][n_tiles][4] = {};
    for (std::int64_t row_0 = begin; row_0 < end; row_0 += rows_each) {
        for (int i = static_cast<int>(threadIdx.x); i < tile * rows_each; i += threads) {
            const std::int64_t row = row_0 + i / tile;
            const std::int64_t m = m_0 + i % tile;
            const std::int64_t n = n_0 + i % tile;
            const bool is_here = row < end;
            const std::int64_t from = is_here && call.row_of != nullptr ? call.row_of[row] : row;
            memory.x[i % tile][i / tile] = is_here && m < call.M ? call.x[from * call.M + m] : bf16{};
            memory.dy[i % tile][i / tile] = is_here && n < call.N ? call.dy[row * call.N + n] : bf16{};
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < rows_each; k += step) {
            std::uint32_t a[m_tiles][4];
#pragma unroll
            for (int i = 0; i < m_tiles; ++i) load_a(a[i], &memory.x[warp_m + i * mma_rows][k], sizeof memory.x[0]);
#pragma unroll
            for (int j = 0; j < n_tiles; ++j) {
                std::uint32_t b[2];
                load_b(b, &memory.dy[warp_n + j * mma_columns][k], sizeof memory.dy[0]);
#pragma unroll
                for (int i = 0; i < m_tiles; ++i) mma<bf16>(sum[i][j], a[i], b);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < m_tiles; ++i)
#pragma unroll
        for (int j = 0; j < n_tiles; ++j)
#pragma unroll
            for (int side = 0; side < 4; ++side) {
                const std::int64_t m = m_0 + warp_m + i * mma_rows + side / 2 * 8 + mma_row(lane_id());
                const std::int64_t n = n_0 + warp_n + j * mma_columns + mma_column(lane_id()) + side % 2;
                if (m < call.M && n < call.N) call.y[(h * call.M + m) * call.N + n] = sum[i][j][side];
            }
}

}  // namespace

void weight_gradient_level_2(const WeightGradient& call) {
    launch("weight_gradient_mma", weight_gradient_mma,
           {.blocks = blocks_for(call.N, tile),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.M, tile),
            .blocks_z = call.heads},
           call);
}

}  // namespace dsa
