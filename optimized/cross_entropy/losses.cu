// One block each: T numbers are little beside T V.
#include "optimized/cross_entropy/losses.h"
#include "optimized/hopper/device.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;

struct SharedCounts {
    int counts[32];
};
struct SharedSums {
    float sums[32];
};

__global__ void __launch_bounds__(threads) count_counting(const std::int32_t* targets, float* count, std::int64_t T) {
    SharedCounts& memory = shared<SharedCounts>();
    int mine = 0;
    for (std::int64_t t = threadIdx.x; t < T; t += threads) mine += targets[t] >= 0 ? 1 : 0;
    mine = over_block(mine, memory.counts, Sum());
    if (threadIdx.x == 0) *count = static_cast<float>(mine > 1 ? mine : 1);
}

__global__ void __launch_bounds__(threads)
    mean_of_losses(const float* losses, const float* count, float* loss, std::int64_t T) {
    SharedSums& memory = shared<SharedSums>();
    float mine = 0.0F;
    for (std::int64_t t = threadIdx.x; t < T; t += threads) mine += losses[t];
    mine = over_block(mine, memory.sums, Sum());
    if (threadIdx.x == 0) *loss = mine / *count;
}

}  // namespace

CrossEntropyScratch::CrossEntropyScratch(const CrossEntropy& call, Arena& arena) {
    count = arena.take<float>(1);
    losses = arena.take<float>(call.T);
}

std::int64_t cross_entropy_workspace(const CrossEntropy& call) {
    Arena arena;
    const CrossEntropyScratch scratch(call, arena);
    return arena.bytes();
}

void count_tokens(const CrossEntropy& call, const CrossEntropyScratch& scratch) {
    launch("cross_entropy_count", count_counting,
           {.threads = threads, .shared_bytes = sizeof(SharedCounts), .stream = call.stream}, call.targets,
           scratch.count, call.T);
}

void mean_loss(const CrossEntropy& call, const CrossEntropyScratch& scratch) {
    launch("cross_entropy_mean", mean_of_losses,
           {.threads = threads, .shared_bytes = sizeof(SharedSums), .stream = call.stream}, scratch.losses,
           scratch.count, call.loss, call.T);
}

}  // namespace dsa
