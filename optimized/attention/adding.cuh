// What blocks leave where a selection is split, and the kernel that adds it.
#pragma once

#include "optimized/attention/softmax.cuh"
#include "optimized/hopper/afresh.h"
#include "optimized/hopper/dependent.h"
#include "optimized/support/arena.h"
#include "optimized/support/launch.h"

namespace dsa {

constexpr int most_parts = 128;  // a thread a part, when they are added

namespace adding {
constexpr int latent = 512;
}

// All null where nothing is split.
struct Parts {
    // [splits, rows H, latent], under the part's own maximum or what lags behind it, not divided
    float* out = nullptr;
    float* maximum = nullptr;  // [rows H, splits]; not what lags behind it, if result.max_logit is asked for
    float* sum = nullptr;      // [rows H, splits]

    Parts(int splits, std::int64_t rows_H, Arena& arena) {
        if (splits == 1) return;
        const std::int64_t all = splits * rows_H;
        out = arena.take<float>(all * adding::latent);
        maximum = arena.take<float>(all);
        sum = arena.take<float>(all);
    }
};

namespace adding {

constexpr int threads = latent / 4;  // four columns each

struct alignas(16) Four {
    float at[4];
};
struct Memory {
    alignas(16) float weight[most_parts];
    float largest[threads / warp_size], sum[threads / warp_size];
};
static_assert(threads == most_parts);

// over_block, for any number of warps, is unrolled to 2 KB of code.
template <class Fold>
__device__ float over_all(float value, float (&of_warp)[threads / warp_size], Fold fold) {
    static_assert(threads / warp_size == 4);
    value = over_warp(value, fold);
    if (lane_id() == 0) of_warp[warp_id()] = value;
    __syncthreads();
    return fold(fold(of_warp[0], of_warp[1]), fold(of_warp[2], of_warp[3]));
}

// Block: a row of q. The order of the sums is the order of the parts. early: started before the parts are there.
// plain_order: of columns; else each four are 0 2 1 3. The first blocks, as many as find a place beside those that
// make the parts, do all once on no parts while they wait, rehearsing: code that another kernel has driven out of the
// caches comes from memory then, and not when the parts are there.
template <bool early, bool plain_order>
__global__ void __launch_bounds__(threads)
    add(Parts parts, AttentionResult result, std::int64_t all_rows, std::int64_t H, int splits, int rehearsing) {
    auto& memory = shared<Memory>();
    const std::int64_t row = blockIdx.x, step = all_rows * latent;
    const int i = static_cast<int>(threadIdx.x);
#pragma unroll 1
    for (bool plays = !early || row >= rehearsing;; plays = true) {
        const int there = plays ? splits : 0;
        if (early && plays) wait_for_previous_kernel();
        const float mine = i < there ? parts.maximum[row * splits + i] : plays ? minus_infinity() : 0.0F;
        const float part = i < there ? parts.sum[row * splits + i] : 0.0F;
        const float* from = parts.out + row * latent + 4 * i;
        float out[4] = {}, maximum, sum;
        int first = 0;
#pragma unroll 1
        do {
            constexpr int bunch = 16;  // on their way at once, the first while the weights are made
            Four fours[bunch];
#pragma unroll
            for (int s = 0; s < bunch; ++s, from = afresh(from + step))  // else all addresses are products
                fours[s] = first + s < there ? *reinterpret_cast<const Four*>(from) : Four{};
            if (first == 0) {
                maximum = over_all(mine, memory.largest, Largest());
                const float weight = maximum == minus_infinity() ? 0.0F : rescaling(mine, maximum);
                memory.weight[i] = weight;
                sum = over_all(part * weight, memory.sum, Sum());
            }
#pragma unroll
            for (int s = 0; s < bunch; s += 4) {
                const Four weight = *reinterpret_cast<const Four*>(&memory.weight[first + s]);
#pragma unroll
                for (int n = 0; n < 4; ++n)
#pragma unroll
                    for (int j = 0; j < 4; ++j) out[j] += fours[s + n].at[j] * weight.at[n];
            }
            first += bunch;
        } while (first < there);
        const auto head = static_cast<std::uint32_t>(row) % static_cast<std::uint32_t>(H);
        const float seen = sum != sum ? sum : maximum;  // NaN is no maximum, and not nothing
        const float by = seen == minus_infinity() ? 0.0F : 1.0F / denominator(result, head, seen, sum);
        const float lse = told_lse(result, seen, sum);
        if (!plays) continue;
        auto* to = reinterpret_cast<std::uint32_t*>(result.out + row * latent + 4 * i);
        to[0] = to_bf16_pair(out[0] * by, out[plain_order ? 1 : 2] * by);
        to[1] = to_bf16_pair(out[plain_order ? 2 : 1] * by, out[3] * by);
        if (i == 0) result.lse[row] = lse;
        if (i == 0 && result.max_logit != nullptr) result.max_logit[row] = maximum;
        return;
    }
}

}  // namespace adding

template <bool early = false, bool plain_order = false>
void add_parts(const Parts& parts, const AttentionResult& result, std::int64_t rows_of_q, std::int64_t H, int splits,
               Stream stream, int rehearsing = 0) {
    launch("attention_add_parts", adding::add<early, plain_order>,
           {.blocks = rows_of_q * H,
            .threads = adding::threads,
            .shared_bytes = sizeof(adding::Memory),
            .stream = stream,
            .overlaps_previous = early},
           parts, result, rows_of_q * H, H, splits, rehearsing);
}

}  // namespace dsa
