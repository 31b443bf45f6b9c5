// The target's workspace: one softmax's maximum and sum a head, never a probability a head.
#pragma once

#include "optimized/attention_target/op.h"
#include "optimized/support/arena.h"

namespace dsa {

struct TargetScratch {
    std::int32_t* kept;  // [T, k], or null
    float* maximum;      // [T, H]
    float* sum;          // [T, H]

    TargetScratch(const AttentionTarget& call, Arena& arena) {
        kept = call.indices == nullptr ? nullptr : arena.take<std::int32_t>(call.T * call.n);
        maximum = arena.take<float>(call.T * call.H);
        sum = arena.take<float>(call.T * call.H);
    }
};

}  // namespace dsa
