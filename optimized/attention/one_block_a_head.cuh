// The plainest attention: a block has one query and one head. Each thread scores a position of its own, the block
// finds the new maximum, and then each thread adds up columns of its own over the positions.
#pragma once

#include "optimized/attention/softmax.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace one_block_a_head {

constexpr int threads = 128;     // positions scored at once
constexpr int columns_each = 4;  // of the output, a thread
constexpr int block_columns = threads * columns_each;

struct Shared {
    float sums[32];
    float p[threads];
    std::int64_t positions[threads];
};

// Keys says what a query sees and where it lies:
//   slots(row), position(row, slot) (-1: skipped), key(position, head)[c] and value(position, head)[c].
// q: [rows, H, d]. Block (row H + head, a part of the output's columns).
template <class Keys>
__global__ void __launch_bounds__(threads)
    attend(Keys keys, const bf16* q, AttentionResult result, std::int64_t H, std::int64_t d, std::int64_t d_v) {
    Shared& memory = shared<Shared>();
    const std::int64_t row = blockIdx.x / H;
    const std::int64_t head = blockIdx.x % H;
    const bf16* query = q + blockIdx.x * d;  // [d]
    const std::int64_t first_column = std::int64_t{blockIdx.y} * block_columns + threadIdx.x;
    float maximum = minus_infinity();
    float sum = 0.0F;
    float out[columns_each] = {};
    const std::int64_t slots = keys.slots(row);
    for (std::int64_t first = 0; first < slots; first += threads) {
        const std::int64_t slot = first + threadIdx.x;
        const std::int64_t position = slot < slots ? keys.position(row, slot) : -1;
        float logit = minus_infinity();
        if (position >= 0) {
            const auto key = keys.key(position, head);
            float score = 0.0F;
            for (std::int64_t c = 0; c < d; ++c) score += to_float(query[c]) * key[c];
            logit = score * result.scale;
        }
        const float before = maximum;
        maximum = Largest()(before, over_block(logit, memory.sums, Largest()));
        const float p = position >= 0 ? expf(logit - maximum) : 0.0F;
        sum = sum * rescaling(before, maximum) + over_block(p, memory.sums, Sum());
        memory.p[threadIdx.x] = through_bf16(p);
        memory.positions[threadIdx.x] = position;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < columns_each; ++j) {
            const std::int64_t column = first_column + j * threads;
            out[j] *= rescaling(before, maximum);
            if (column >= d_v) continue;
            for (int i = 0; i < threads; ++i)
                if (memory.positions[i] >= 0) out[j] += memory.p[i] * keys.value(memory.positions[i], head)[column];
        }
        __syncthreads();
    }
    const float below = denominator(result, head, maximum, sum);
#pragma unroll
    for (int j = 0; j < columns_each; ++j) {
        const std::int64_t column = first_column + j * threads;
        if (column < d_v)
            result.out[blockIdx.x * d_v + column] = to_bf16(maximum == minus_infinity() ? 0.0F : out[j] / below);
    }
    if (threadIdx.x != 0 || blockIdx.y != 0) return;
    result.lse[blockIdx.x] = told_lse(result, maximum, sum);
    if (result.max_logit != nullptr) result.max_logit[blockIdx.x] = maximum;
}

}  // namespace one_block_a_head

template <class Keys>
void attend_one_block_a_head(const char* name, const Keys& keys, const bf16* q, const AttentionResult& result,
                             std::int64_t rows, std::int64_t H, std::int64_t d, std::int64_t d_v, Stream stream) {
    using namespace one_block_a_head;
    launch(name, attend<Keys>,
           {.blocks = rows * H,
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = stream,
            .blocks_y = std::max<std::int64_t>(1, blocks_for(d_v, block_columns))},
           keys, q, result, H, d, d_v);
}

}  // namespace dsa
