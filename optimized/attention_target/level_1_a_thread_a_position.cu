// Level 1. Every score is computed twice: for each head's softmax, and again for the sum over heads, so that none of
// them is ever stored.
#include "optimized/attention/candidates.cuh"
#include "optimized/attention/selected.h"
#include "optimized/attention/softmax.cuh"
#include "optimized/attention_target/normalise.cuh"
#include "optimized/attention_target/scratch.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

constexpr int threads = 128;

struct Shared {
    float sums[32];
};

__device__ float score_of(const bf16* query, const bf16* key, std::int64_t d) {
    float score = 0.0F;
    for (std::int64_t c = 0; c < d; ++c) score += to_float(query[c]) * to_float(key[c]);
    return score;
}

// The maximum and the sum of a head's softmax over its candidates. Block (query H + head).
__global__ void __launch_bounds__(threads)
    softmax_of_head(const bf16* q, const bf16* kv, Candidates candidates, float* maxima, float* sums, std::int64_t H,
                    std::int64_t d, float scale) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x / H;
    float maximum = minus_infinity();  // this thread's
    float sum = 0.0F;
    for (std::int64_t slot = threadIdx.x; slot < candidates.n; slot += threads) {
        const std::int64_t position = candidates.position(t, slot);
        if (position < 0) continue;
        const float logit = score_of(q + blockIdx.x * d, kv + position * d, d) * scale;
        const float before = maximum;
        maximum = Largest()(before, logit);
        sum = sum * rescaling(before, maximum) + expf(logit - maximum);
    }
    const float of_all = over_block(maximum, memory.sums, Largest());
    sum = over_block(sum * rescaling(maximum, of_all), memory.sums, Sum());
    if (threadIdx.x != 0) return;
    maxima[blockIdx.x] = of_all;
    sums[blockIdx.x] = sum;
}

// p = sum over heads of exp(logit - maximum) / sum. Block (query, 128 slots).
__global__ void __launch_bounds__(threads)
    sum_over_heads(const bf16* q, const bf16* kv, Candidates candidates, const float* maxima, const float* sums,
                   float* p, std::int64_t H, std::int64_t d, float scale, bool causal) {
    const std::int64_t t = blockIdx.x;
    const std::int64_t slot = std::int64_t{blockIdx.y} * threads + threadIdx.x;
    if (slot >= candidates.n) return;
    std::int64_t position = candidates.position(t, slot);
    if (causal && position > candidates.last_seen(t)) position = -1;  // no probability there
    float total = 0.0F;
    for (std::int64_t h = 0; position >= 0 && h < H; ++h) {
        const std::int64_t row = t * H + h;
        total += expf(score_of(q + row * d, kv + position * d, d) * scale - maxima[row]) / sums[row];
    }
    p[t * candidates.n + slot] = total;
}

}  // namespace

void attention_target_level_1(const AttentionTarget& call) {
    require_workspace(call.workspace, call.workspace_bytes, attention_target_workspace(call));
    Arena arena(call.workspace);
    const TargetScratch scratch(call, arena);
    if (call.indices != nullptr)
        keep_selected_by_comparing(call.indices, scratch.kept, call.T, call.n, call.S, call.stream);
    const Candidates on_set{scratch.kept, call.T, call.S, call.n};
    const bool all = call.indices == nullptr || call.renormalised;
    const Candidates of_softmax = all ? Candidates{nullptr, call.T, call.S, call.S} : on_set;
    launch("softmax_of_head", softmax_of_head,
           {.blocks = call.T * call.H, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream},
           call.q, call.kv, of_softmax, scratch.maximum, scratch.sum, call.H, call.d, call.scale);
    launch("sum_over_heads", sum_over_heads,
           {.blocks = call.T, .threads = threads, .stream = call.stream, .blocks_y = blocks_for(call.n, threads)},
           call.q, call.kv, on_set, scratch.maximum, scratch.sum, call.p, call.H, call.d, call.scale, all);
    normalise_target(call);
}

}  // namespace dsa
