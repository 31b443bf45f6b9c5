// dx of every row, and each row's mean and 1 / deviation, which dweight needs too: the first kernel of every level.
#pragma once

#include "optimized/hopper/numbers.h"
#include "optimized/layer_norm_backward/op.h"
#include "optimized/support/launch.h"

namespace dsa::layer_norm_backward {

constexpr int threads = 128;

struct Shared {
    float sums[32];
};

struct Row {
    float mean, inverse_deviation;
};

static __global__ void __launch_bounds__(threads) gradient_of_row(LayerNormBackward call, Row* rows) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const bf16* x = call.x + t * call.D;    // [D]
    const bf16* dy = call.dy + t * call.D;  // [D]
    const auto D = static_cast<float>(call.D);
    float sum = 0.0F;
    for (std::int64_t i = threadIdx.x; i < call.D; i += threads) sum += to_float(x[i]);
    const float mean = over_block(sum, memory.sums, Sum()) / D;
    float square_sum = 0.0F;
    float g_sum = 0.0F;
    float product_sum = 0.0F;  // of g (x - mean), which is mean(g n) D deviation
    for (std::int64_t i = threadIdx.x; i < call.D; i += threads) {
        const float centred = to_float(x[i]) - mean;
        const float g = to_float(dy[i]) * call.weight[i];
        square_sum += centred * centred;
        g_sum += g;
        product_sum += g * centred;
    }
    square_sum = over_block(square_sum, memory.sums, Sum());
    const float g_mean = over_block(g_sum, memory.sums, Sum()) / D;
    product_sum = over_block(product_sum, memory.sums, Sum());
    const float inverse = rsqrtf(square_sum / D + call.eps);
    const float along = product_sum * inverse / D;  // mean(g n)
    for (std::int64_t i = threadIdx.x; i < call.D; i += threads) {
        const float n = (to_float(x[i]) - mean) * inverse;
        const float g = to_float(dy[i]) * call.weight[i];
        call.dx[t * call.D + i] = to_bf16((g - g_mean - n * along) * inverse);
    }
    if (threadIdx.x == 0) rows[t] = {mean, inverse};
}

// rows: [T]
inline void gradient_of_rows(const LayerNormBackward& call, Row* rows) {
    launch("layer_norm_gradient_of_row", gradient_of_row,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call, rows);
}

// sums[piece, d] = sum of dy n, and biases[piece, d] = sum of dy, over the tokens of a piece, one after the other.
// Block (128 columns, piece).
constexpr int columns = 128;
static __global__ void __launch_bounds__(columns)
    gradient_of_weight(LayerNormBackward call, const Row* rows, float* sums, float* biases, std::int64_t piece) {
    const std::int64_t d = std::int64_t{blockIdx.x} * columns + threadIdx.x;
    if (d >= call.D) return;
    const std::int64_t begin = blockIdx.y * piece;
    const std::int64_t end = min(begin + piece, call.T);
    float sum = 0.0F;
    float bias = 0.0F;
    for (std::int64_t t = begin; t < end; ++t) {
        const float dy = to_float(call.dy[t * call.D + d]);
        sum += dy * ((to_float(call.x[t * call.D + d]) - rows[t].mean) * rows[t].inverse_deviation);
        bias += dy;
    }
    sums[blockIdx.y * call.D + d] = sum;
    biases[blockIdx.y * call.D + d] = bias;
}

// sums, biases: [pieces, D]
inline void gradient_of_weights(const LayerNormBackward& call, const Row* rows, float* sums, float* biases,
                                std::int64_t pieces) {
    launch("layer_norm_gradient_of_weight", gradient_of_weight,
           {.blocks = blocks_for(call.D, columns), .threads = columns, .stream = call.stream, .blocks_y = pieces},
           call, rows, sums, biases, pieces == 0 ? 0 : blocks_for(call.T, pieces));
}

}  // namespace dsa::layer_norm_backward
