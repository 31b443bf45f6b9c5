// Level 1. Bound: bytes, 4 a number (x is read twice, once from L2, and y written).
#include "optimized/hopper/numbers.h"
#include "optimized/rms_norm/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;

struct Shared {
    float sums[32];
};

__global__ void __launch_bounds__(threads)
    rms_norm_row(const bf16* x, const float* weight, bf16* y, std::int64_t D, float eps) {
    Shared& memory = shared<Shared>();
    const bf16* row = x + blockIdx.x * D;  // [D]
    float square_sum = 0.0F;
    for (std::int64_t i = threadIdx.x; i < D; i += threads) {
        const float v = to_float(row[i]);
        square_sum += v * v;
    }
    square_sum = over_block(square_sum, memory.sums, Sum());
    const float inverse_rms = rsqrtf(square_sum / static_cast<float>(D) + eps);
    for (std::int64_t i = threadIdx.x; i < D; i += threads)
        y[blockIdx.x * D + i] = to_bf16(to_float(row[i]) * inverse_rms * weight[i]);
}

}  // namespace

void rms_norm_level_1(const RmsNorm& call) {
    launch("rms_norm_row", rms_norm_row,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call.x,
           call.weight, call.y, call.D, call.eps);
}

}  // namespace dsa
