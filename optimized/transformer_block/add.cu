// The residual stream's additions.
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"
#include "optimized/transformer_block/op.h"

namespace dsa {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads) block_add(const bf16* a, const bf16* b, bf16* y, std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i < count) y[i] = to_bf16(to_float(a[i]) + to_float(b[i]));
}

}  // namespace

void add(const bf16* a, const bf16* b, bf16* y, std::int64_t count, Stream stream) {
    launch("block_add", block_add, {.blocks = blocks_for(count, threads), .threads = threads, .stream = stream}, a, b,
           y, count);
}

}  // namespace dsa
