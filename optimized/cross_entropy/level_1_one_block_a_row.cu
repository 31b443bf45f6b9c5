// Level 1. Bound: bytes; a row is read three times (twice from L2, if it is still there) and written once.
#include "optimized/cross_entropy/losses.h"
#include "optimized/hopper/device.h"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 512;

struct Shared {
    float sums[32];
};

__global__ void __launch_bounds__(threads) cross_entropy_row(CrossEntropy call, const float* count, float* losses) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const float* logits = call.logits + t * call.V;  // [V]
    float* dlogits = call.dlogits + t * call.V;      // [V]
    const std::int32_t target = call.targets[t];
    if (target < 0) {
        for (std::int64_t v = threadIdx.x; v < call.V; v += threads) dlogits[v] = 0.0F;
        if (threadIdx.x == 0) losses[t] = 0.0F;
        return;
    }
    float largest = logits[0];
    for (std::int64_t v = threadIdx.x; v < call.V; v += threads) largest = largest < logits[v] ? logits[v] : largest;
    largest = over_block(largest, memory.sums, Largest());
    float sum = 0.0F;
    for (std::int64_t v = threadIdx.x; v < call.V; v += threads) sum += expf(logits[v] - largest);
    sum = over_block(sum, memory.sums, Sum());
    const float n = *count;
    for (std::int64_t v = threadIdx.x; v < call.V; v += threads) {
        const float p = expf(logits[v] - largest) / (sum * n);
        dlogits[v] = v == target ? p - 1.0F / n : p;
    }
    // A target that is no word makes the loss NaN: a call reads nothing back, and cannot refuse it.
    if (threadIdx.x == 0)
        losses[t] = target < call.V ? largest + logf(sum) - logits[target] : __uint_as_float(0x7fffffffU);
}

}  // namespace

void cross_entropy_level_1(const CrossEntropy& call) {
    require_workspace(call.workspace, call.workspace_bytes, cross_entropy_workspace(call));
    Arena arena(call.workspace);
    const CrossEntropyScratch scratch(call, arena);
    count_tokens(call, scratch);
    launch("cross_entropy_row", cross_entropy_row,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call,
           scratch.count, scratch.losses);
    mean_loss(call, scratch);
}

}  // namespace dsa
