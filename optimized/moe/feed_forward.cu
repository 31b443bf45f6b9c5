// What a feed-forward net does between its products.
#include "optimized/hopper/numbers.h"
#include "optimized/moe/feed_forward.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads) silu_times(bf16* gate, const bf16* up, std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i >= count) return;
    const float g = to_float(gate[i]);
    const float small = expf(-fabsf(g));  // of negative numbers only: nothing overflows
    const float sigmoid = g >= 0.0F ? 1.0F / (1.0F + small) : small / (1.0F + small);
    gate[i] = to_bf16(g * sigmoid * to_float(up[i]));
}

}  // namespace

void silu_product(bf16* gate, const bf16* up, std::int64_t count, Stream stream) {
    launch("silu_times", silu_times, {.blocks = blocks_for(count, threads), .threads = threads, .stream = stream},
           gate, up, count);
}

}  // namespace dsa
