// What a feed-forward net does between its products.
#include "optimized/hopper/numbers.h"
#include "optimized/moe/feed_forward.h"
#include "optimized/support/launch.h"
#include "optimized/support/sigmoid.cuh"

namespace dsa {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads)
    silu_times(const bf16* gate, const bf16* up, bf16* hidden, std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i >= count) return;
    const float g = to_float(gate[i]);
    hidden[i] = to_bf16(g * sigmoid(g) * to_float(up[i]));
}

}  // namespace

void silu_product(const bf16* gate, const bf16* up, bf16* hidden, std::int64_t count, Stream stream) {
    launch("silu_times", silu_times, {.blocks = blocks_for(count, threads), .threads = threads, .stream = stream},
           gate, up, hidden, count);
}

}  // namespace dsa
