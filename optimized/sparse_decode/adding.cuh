// What blocks leave where a selection is split, and the kernel that adds it.
#pragma once

#include "optimized/attention/softmax.cuh"
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
    // [splits, rows H, latent], under the part's own maximum, not divided
    float* out = nullptr;
    float* maximum = nullptr;  // [rows H, splits]
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
    float weight[most_parts];
    float fold[32];
};

// Block: a row of q. The order of the sums is the order of the parts. early: started before the parts are there.
// plain_order: of columns; else each four are 0 2 1 3.
template <bool early, bool plain_order>
__global__ void __launch_bounds__(threads)
    add(Parts parts, AttentionResult result, std::int64_t all_rows, std::int64_t H, int splits) {
    if (early) wait_for_previous_kernel();
    auto& memory = shared<Memory>();
    const std::int64_t row = blockIdx.x;
    const int i = static_cast<int>(threadIdx.x);
    const float mine = i < splits ? parts.maximum[row * splits + i] : minus_infinity();
    const float part = i < splits ? parts.sum[row * splits + i] : 0.0F;
    const float* from = parts.out + row * latent + 4 * i;
    constexpr int bunch = 16;  // on their way at once, the first while the weights are made
    Four fours[bunch];
    const auto load = [&](int first) {
#pragma unroll
        for (int s = 0; s < bunch; ++s)
            fours[s] =
                first + s < splits ? *reinterpret_cast<const Four*>(from + (first + s) * all_rows * latent) : Four{};
    };
    load(0);
    float maximum = over_block(mine, memory.fold, Largest());
    const float weight = maximum == minus_infinity() ? 0.0F : rescaling(mine, maximum);
    const float sum = over_block(part * weight, memory.fold, Sum());
    if (sum != sum) maximum = sum;  // NaN is no maximum, and not nothing
    if (i < splits) memory.weight[i] = weight;
    __syncthreads();
    float out[4] = {};
    for (int first = 0; first < splits; first += bunch) {
        if (first > 0) load(first);
#pragma unroll
        for (int s = 0; s < bunch; ++s) {
            if (first + s >= splits) break;
#pragma unroll
            for (int j = 0; j < 4; ++j) out[j] += fours[s].at[j] * memory.weight[first + s];
        }
    }
    const float by = maximum == minus_infinity() ? 0.0F : 1.0F / denominator(result, row % H, maximum, sum);
    auto* to = reinterpret_cast<std::uint32_t*>(result.out + row * latent + 4 * i);
    to[0] = to_bf16_pair(out[0] * by, out[plain_order ? 1 : 2] * by);
    to[1] = to_bf16_pair(out[plain_order ? 2 : 1] * by, out[3] * by);
    if (i == 0) result.lse[row] = told_lse(result, maximum, sum);
}

}  // namespace adding

template <bool early = false, bool plain_order = false>
void add_parts(const Parts& parts, const AttentionResult& result, std::int64_t rows_of_q, std::int64_t H, int splits,
               Stream stream) {
    launch("sparse_decode_add", adding::add<early, plain_order>,
           {.blocks = rows_of_q * H,
            .threads = adding::threads,
            .shared_bytes = sizeof(adding::Memory),
            .stream = stream,
            .overlaps_previous = early},
           parts, result, rows_of_q * H, H, splits);
}

}  // namespace dsa
