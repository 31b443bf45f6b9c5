// A block has a tile of 32 rows and 32 positions. The transposed copies go through shared memory, so that both are
// written side by side.
#include "optimized/attention/selected_by.cuh"
#include "optimized/dense_backward/weights.h"
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int tile = 32;
constexpr int threads = 256;

struct Shared {
    bf16 p[tile][tile + 2];  // two columns more, so that columns lie in different banks
    bf16 d_scores[tile][tile + 2];
};

__global__ void __launch_bounds__(threads) weights_of_tile(__grid_constant__ const DenseWeights call) {
    Shared& memory = shared<Shared>();
    const std::int64_t head = blockIdx.z;
    const std::int64_t s_0 = std::int64_t{blockIdx.x} * tile;
    const std::int64_t row_0 = std::int64_t{blockIdx.y} * tile;
    for (int i = static_cast<int>(threadIdx.x); i < tile * tile; i += threads) {
        const std::int64_t row = row_0 + i / tile;
        const std::int64_t s = s_0 + i % tile;
        const std::int64_t at = (head * call.rows + row) * call.S + s;
        const std::int64_t t = row / call.rows_of_query;
        const bool is_here = row < call.rows && s < call.S;
        float p = 0.0F;
        float d_score = 0.0F;
        if (is_here && s < call.end + t && (call.start == nullptr || s >= call.start[t]) &&
            (call.selectors == nullptr || is_selected(call.selectors, call.rows, s, t))) {
            const std::int64_t of_row = row * call.lse_row + head;
            // Rounded before the subtraction, as the maximum in lse was: the p of a row's only position is 1.
            p = expf(__fmul_rn(call.scores[at], call.scale) - call.lse[of_row]);
            const bool is_only = call.out_is_of_scores && p == 1.0F;
            if (!is_only) d_score = p * (call.d_p[at] - call.delta[of_row]) * call.scale;
        }
        memory.p[i / tile][i % tile] = to_bf16(p);
        memory.d_scores[i / tile][i % tile] = to_bf16(d_score);
        if (is_here) call.d_scores[at] = to_bf16(d_score);
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < tile * tile; i += threads) {
        const std::int64_t s = s_0 + i / tile;
        const std::int64_t row = row_0 + i % tile;
        if (row >= call.rows || s >= call.S) continue;
        const std::int64_t at = (head * call.S + s) * call.rows + row;
        call.p_t[at] = memory.p[i % tile][i / tile];
        call.d_scores_t[at] = memory.d_scores[i % tile][i / tile];
    }
}

// A warp a row.
constexpr int rows_each = threads / warp_size;
__global__ void __launch_bounds__(threads)
    delta_of_row(const bf16* out, const bf16* dout, float* delta, std::int64_t rows, std::int64_t d_v) {
    const std::int64_t row = std::int64_t{blockIdx.x} * rows_each + warp_id();
    if (row >= rows) return;
    float sum = 0.0F;
    for (std::int64_t c = lane_id(); c < d_v; c += warp_size)
        sum += to_float(out[row * d_v + c]) * to_float(dout[row * d_v + c]);
    sum = over_warp(sum, Sum());
    if (lane_id() == 0) delta[row] = sum;
}

__global__ void __launch_bounds__(threads)
    add_row(float* sums, std::int64_t sums_row, const float* parts, std::int64_t rows, std::int64_t columns) {
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i >= rows * columns) return;
    sums[i / columns * sums_row + i % columns] += parts[i];
}

}  // namespace

void dense_weights(const DenseWeights& call) {
    launch("dense_weights", weights_of_tile,
           {.blocks = blocks_for(call.S, tile),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.rows, tile),
            .blocks_z = call.heads},
           call);
}

void dense_delta(const bf16* out, const bf16* dout, float* delta, std::int64_t rows, std::int64_t d_v,
                 Stream stream) {
    launch("dense_delta", delta_of_row, {.blocks = blocks_for(rows, rows_each), .threads = threads, .stream = stream},
           out, dout, delta, rows, d_v);
}

void add_to_rows(float* sums, std::int64_t sums_row, const float* parts, std::int64_t rows, std::int64_t columns,
                 Stream stream) {
    launch("add_to_rows", add_row,
           {.blocks = blocks_for(rows * columns, threads), .threads = threads, .stream = stream}, sums, sums_row,
           parts, rows, columns);
}

}  // namespace dsa
