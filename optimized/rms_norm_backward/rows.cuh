// dx of every row, and each row's 1 / rms, which dweight needs too: the first kernel of every level.
#pragma once

#include "optimized/hopper/numbers.h"
#include "optimized/rms_norm_backward/op.h"
#include "optimized/support/launch.h"

namespace dsa::rms_norm_backward {

constexpr int threads = 256;

struct Shared {
    float sums[32];
};

static __global__ void __launch_bounds__(threads) gradient_of_row(RmsNormBackward call, float* inverse_rms) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const bf16* x = call.x + t * call.D;    // [D]
    const bf16* dy = call.dy + t * call.D;  // [D]
    float square_sum = 0.0F;
    float product_sum = 0.0F;  // of g x, which is mean(g n) D rms
    for (std::int64_t i = threadIdx.x; i < call.D; i += threads) {
        const float v = to_float(x[i]);
        square_sum += v * v;
        product_sum += to_float(dy[i]) * call.weight[i] * v;
    }
    square_sum = over_block(square_sum, memory.sums, Sum());
    product_sum = over_block(product_sum, memory.sums, Sum());
    const auto D = static_cast<float>(call.D);
    const float inverse = rsqrtf(square_sum / D + call.eps);
    const float along = product_sum * inverse / D;  // mean(g n)
    for (std::int64_t i = threadIdx.x; i < call.D; i += threads) {
        const float n = to_float(x[i]) * inverse;
        const float beside = call.residual == nullptr ? 0.0F : to_float(call.residual[t * call.D + i]);
        call.dx[t * call.D + i] = to_bf16(beside + (to_float(dy[i]) * call.weight[i] - n * along) * inverse);
    }
    if (threadIdx.x == 0) inverse_rms[t] = inverse;
}

// inverse_rms: [T]
inline void gradient_of_rows(const RmsNormBackward& call, float* inverse_rms) {
    launch("rms_norm_gradient_of_row", gradient_of_row,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call,
           inverse_rms);
}

// sums[piece, d] = sum of dy n over the tokens of a piece, one after the other. Block (128 columns, piece).
constexpr int columns = 128;
static __global__ void __launch_bounds__(columns)
    gradient_of_weight(RmsNormBackward call, const float* inverse_rms, float* sums, std::int64_t piece) {
    const std::int64_t d = std::int64_t{blockIdx.x} * columns + threadIdx.x;
    if (d >= call.D) return;
    const std::int64_t begin = blockIdx.y * piece;
    const std::int64_t end = min(begin + piece, call.T);
    float sum = 0.0F;
    for (std::int64_t t = begin; t < end; ++t)
        sum += to_float(call.dy[t * call.D + d]) * (to_float(call.x[t * call.D + d]) * inverse_rms[t]);
    sums[blockIdx.y * call.D + d] = sum;
}

// sums: [pieces, D]
inline void gradient_of_weights(const RmsNormBackward& call, const float* inverse_rms, float* sums,
                                std::int64_t pieces) {
    launch("rms_norm_gradient_of_weight", gradient_of_weight,
           {.blocks = blocks_for(call.D, columns), .threads = columns, .stream = call.stream, .blocks_y = pieces},
           call, inverse_rms, sums, pieces == 0 ? 0 : blocks_for(call.T, pieces));
}

}  // namespace dsa::rms_norm_backward
