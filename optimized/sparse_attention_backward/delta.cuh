// delta = sum of out dout, which every probability's gradient is measured from: the first step of every level.
#pragma once

#include "optimized/hopper/numbers.h"
#include "optimized/sparse_attention_backward/op.h"
#include "optimized/support/launch.h"

namespace dsa {

__device__ inline float dot(const bf16* a, const bf16* b, std::int64_t n) {
    float sum = 0.0F;
    for (std::int64_t c = 0; c < n; ++c) sum += to_float(a[c]) * to_float(b[c]);
    return sum;
}

namespace backward {

constexpr int threads = 128;

// A thread has a row of q.
__global__ inline void __launch_bounds__(threads) delta(SparseAttentionBackward call, float* deltas) {
    const std::int64_t row = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (row < call.T * call.H) deltas[row] = dot(call.out + row * call.d_v, call.dout + row * call.d_v, call.d_v);
}

}  // namespace backward

// deltas: [T, H]
inline void delta_of_rows(const SparseAttentionBackward& call, float* deltas) {
    launch("delta_of_rows", backward::delta,
           {.blocks = blocks_for(call.T * call.H, backward::threads),
            .threads = backward::threads,
            .stream = call.stream},
           call, deltas);
}

}  // namespace dsa
