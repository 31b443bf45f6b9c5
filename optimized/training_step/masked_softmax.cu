// What lies between masked attention's two products.
#include "optimized/attention/selected_by.cuh"
#include "optimized/attention/softmax.cuh"
#include "optimized/support/launch.h"
#include "optimized/training_step/masked_attention.h"

namespace dsa {
namespace {

constexpr int threads = 128;

struct Shared {
    float sums[32];
};

struct Softmax {
    float maximum, sum;
};

// Whether query t may attend to position s; causal pairs are asked for only.
__device__ bool is_allowed(const std::uint32_t* selectors, std::int64_t T, std::int64_t s, std::int64_t t) {
    return selectors == nullptr || is_selected(selectors, T, s, t);
}

// Of scores[s] scale over the positions up to t that are allowed.
__device__ Softmax softmax_of(const float* scores, const std::uint32_t* selectors, std::int64_t T, std::int64_t t,
                              float scale, Shared& memory) {
    float maximum = minus_infinity();
    for (std::int64_t s = threadIdx.x; s <= t; s += threads)
        if (is_allowed(selectors, T, s, t)) maximum = Largest()(maximum, scores[s] * scale);
    maximum = over_block(maximum, memory.sums, Largest());
    float sum = 0.0F;
    for (std::int64_t s = threadIdx.x; s <= t; s += threads)
        if (is_allowed(selectors, T, s, t)) sum += expf(scores[s] * scale - maximum);
    return {maximum, over_block(sum, memory.sums, Sum())};
}

// Block (query, head). Where nothing is allowed, top_k has met a NaN, and the row becomes NaN.
__global__ void __launch_bounds__(threads)
    softmax_of_row(__grid_constant__ const MaskedAttention call, float* scores, bf16* p, float* lse) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const std::int64_t h = blockIdx.y;
    float* row = scores + (h * call.T + t) * call.T;  // [T]
    const Softmax own = softmax_of(row, call.selectors, call.T, t, call.scale, memory);
    const Softmax of_target = call.renormalised ? softmax_of(row, nullptr, call.T, t, call.scale, memory) : own;
    const float nothing =
        own.sum == 0.0F ? own.sum / own.sum : 0.0F;  // a NaN, or the 0 of a pair that is not allowed
    for (std::int64_t s = threadIdx.x; s < call.T; s += threads) {
        const bool counts = s <= t && is_allowed(call.selectors, call.T, s, t);
        const float score = row[s] * call.scale;
        p[(h * call.T + t) * call.T + s] = to_bf16(counts ? expf(score - own.maximum) / own.sum : nothing);
        row[s] = counts ? expf(score - of_target.maximum) / of_target.sum : nothing;
    }
    if (threadIdx.x == 0) lse[t * call.H + h] = own.maximum + logf(own.sum) + nothing;
}

// Block (query). The heads of a position are added in their order.
__global__ void __launch_bounds__(threads)
    target_of_row(__grid_constant__ const MaskedAttention call, const float* parts, std::int64_t heads, bool is_first,
                  bool is_last) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const std::int64_t T = call.T;
    float* row = call.target + t * T;  // [T]
    float sum = 0.0F;
    for (std::int64_t s = threadIdx.x; s < T; s += threads) {
        float p = is_first ? 0.0F : row[s];
        for (std::int64_t h = 0; h < heads; ++h) p += parts[(h * T + t) * T + s];
        row[s] = is_last ? p / static_cast<float>(call.H) : p;
        sum += row[s];
    }
    if (!is_last || !call.renormalised) return;
    sum = over_block(sum, memory.sums, Sum());
    // A selection that misses every probability that float32 can hold says nothing about its members.
    if (sum == 0.0F) {
        float count = 0.0F;
        for (std::int64_t s = threadIdx.x; s <= t; s += threads) {
            row[s] = is_allowed(call.selectors, T, s, t) ? 1.0F : 0.0F;
            count += row[s];
        }
        sum = over_block(count, memory.sums, Sum());
    }
    for (std::int64_t s = threadIdx.x; s < T; s += threads) row[s] /= sum;
}

}  // namespace

void masked_softmax(const MaskedAttention& call, float* scores, bf16* p, float* lse, std::int64_t heads) {
    launch("masked_softmax", softmax_of_row,
           {.blocks = call.T,
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = heads},
           call, scores, p, lse);
}

void add_to_target(const MaskedAttention& call, const float* parts, std::int64_t first, std::int64_t heads) {
    launch("masked_attention_target", target_of_row,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call, parts,
           heads, first == 0, first + heads == call.H);
}

}  // namespace dsa
