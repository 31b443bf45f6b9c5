// From scores to the loss, and to dL/dI = softmax(I) - p in the scores' place: what every level does.
#pragma once

#include "optimized/attention/softmax.cuh"
#include "optimized/indexer_kl_loss/scratch.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace kl {

constexpr int threads = 256;

struct Shared {
    float sums[32];
    std::int32_t counts[32];
};

// A query's loss and, where scores were, softmax(I) - p; 0 where there is no candidate. Block (query).
static __global__ void __launch_bounds__(threads)
    loss_of_query(float* scores, const float* p, std::int64_t n, float* losses, std::int32_t* counts) {
    Shared& memory = shared<Shared>();
    float* row = scores + blockIdx.x * n;      // [n]
    const float* target = p + blockIdx.x * n;  // [n]
    float maximum = minus_infinity();
    for (std::int64_t i = threadIdx.x; i < n; i += threads) maximum = Largest()(maximum, row[i]);
    maximum = over_block(maximum, memory.sums, Largest());
    float sum = 0.0F;
    for (std::int64_t i = threadIdx.x; i < n; i += threads)
        if (row[i] != minus_infinity()) sum += expf(row[i] - maximum);
    sum = over_block(sum, memory.sums, Sum());
    const float lse = maximum + logf(sum);
    float loss = 0.0F;
    for (std::int64_t i = threadIdx.x; i < n; i += threads) {
        const float score = row[i];
        if (score == minus_infinity()) {
            row[i] = 0.0F;
            continue;
        }
        // 0 log 0 is 0; a NaN is no 0.
        if (!(target[i] <= 0.0F)) loss += target[i] * (logf(target[i]) - (score - lse));
        row[i] = expf(score - maximum) / sum - target[i];
    }
    loss = over_block(loss, memory.sums, Sum());
    if (threadIdx.x != 0) return;
    losses[blockIdx.x] = loss;
    counts[blockIdx.x] = maximum == minus_infinity() ? 0 : 1;
}

// One block: the loss of all queries, and the factor of all gradients.
static __global__ void __launch_bounds__(threads)
    loss_of_all(const float* losses, const std::int32_t* counts, std::int64_t T, float coefficient, bool mean,
                float* loss, float* factor) {
    Shared& memory = shared<Shared>();
    float sum = 0.0F;
    std::int32_t count = 0;
    for (std::int64_t t = threadIdx.x; t < T; t += threads) {
        sum += losses[t];
        count += counts[t];
    }
    sum = over_block(sum, memory.sums, Sum());
    count = over_block(count, memory.counts, Sum());
    if (threadIdx.x != 0) return;
    *factor = mean && count > 0 ? coefficient / static_cast<float>(count) : coefficient;
    *loss = *factor * sum;
}

}  // namespace kl

inline void loss_of_scores(const IndexerKlLoss& call, const KlScratch& scratch) {
    launch("loss_of_query", kl::loss_of_query,
           {.blocks = call.T, .threads = kl::threads, .shared_bytes = sizeof(kl::Shared), .stream = call.stream},
           scratch.d_scores, scratch.p(call), call.n, scratch.losses, scratch.counts);
    launch("loss_of_all", kl::loss_of_all,
           {.threads = kl::threads, .shared_bytes = sizeof(kl::Shared), .stream = call.stream}, scratch.losses,
           scratch.counts, call.T, call.coefficient, call.mean, call.loss, scratch.factor);
}

}  // namespace dsa
