// The last step of every level: p_t becomes p_t over its sum. A query that sees nothing has a target of zeros.
#pragma once

#include "optimized/attention_target/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace target {

constexpr int threads = 256;

struct Shared {
    float sums[32];
};

// Block (query).
static __global__ void __launch_bounds__(threads) normalise(float* p, std::int64_t n) {
    Shared& memory = shared<Shared>();
    float* row = p + blockIdx.x * n;  // [n]
    float sum = 0.0F;
    for (std::int64_t i = threadIdx.x; i < n; i += threads) sum += row[i];
    sum = over_block(sum, memory.sums, Sum());
    if (sum == 0.0F) return;
    for (std::int64_t i = threadIdx.x; i < n; i += threads) row[i] /= sum;
}

}  // namespace target

inline void normalise_target(const AttentionTarget& call) {
    launch(
        "normalise_target", target::normalise,
        {.blocks = call.T, .threads = target::threads, .shared_bytes = sizeof(target::Shared), .stream = call.stream},
        call.p, call.n);
}

}  // namespace dsa
