// Level 1. The variance is that of the centred numbers: E[x^2] - E[x]^2 would lose all digits of a row far from 0.
#include "optimized/hopper/numbers.h"
#include "optimized/layer_norm/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 128;

struct Shared {
    float sums[32];
};

__global__ void __launch_bounds__(threads)
    layer_norm_row(const bf16* x, const float* weight, const float* bias, bf16* y, std::int64_t D, float eps) {
    Shared& memory = shared<Shared>();
    const bf16* row = x + blockIdx.x * D;  // [D]
    float sum = 0.0F;
    for (std::int64_t i = threadIdx.x; i < D; i += threads) sum += to_float(row[i]);
    const float mean = over_block(sum, memory.sums, Sum()) / static_cast<float>(D);
    float square_sum = 0.0F;
    for (std::int64_t i = threadIdx.x; i < D; i += threads) {
        const float centred = to_float(row[i]) - mean;
        square_sum += centred * centred;
    }
    const float variance = over_block(square_sum, memory.sums, Sum()) / static_cast<float>(D);
    const float inverse_deviation = rsqrtf(variance + eps);
    for (std::int64_t i = threadIdx.x; i < D; i += threads)
        y[blockIdx.x * D + i] = to_bf16((to_float(row[i]) - mean) * inverse_deviation * weight[i] + bias[i]);
}

}  // namespace

void layer_norm_level_1(const LayerNorm& call) {
    launch("layer_norm_row", layer_norm_row,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call.x,
           call.weight, call.bias, call.y, call.D, call.eps);
}

}  // namespace dsa
