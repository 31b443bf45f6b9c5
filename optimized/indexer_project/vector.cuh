// What both levels do with a vector's scale.
#pragma once

#include "optimized/hopper/numbers.h"
#include "optimized/indexer_project/op.h"

namespace dsa {

// One thread a vector keeps its scale, or folds it into its head's weight. at: t N + head
__device__ inline void keep_scale(const IndexerVectors& call, std::int64_t at, float scale) {
    if (call.scale != nullptr) call.scale[at] = scale;
    if (call.weights == nullptr) return;
    const float projected = call.weights_bf16 ? through_bf16(call.weights[at]) : call.weights[at];
    call.weights[at] = projected * call.factor * scale;
}

}  // namespace dsa
