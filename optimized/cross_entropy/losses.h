// What all levels have in common: how many tokens count, and the mean of their losses.
#pragma once

#include "optimized/cross_entropy/op.h"
#include "optimized/support/arena.h"

namespace dsa {

struct CrossEntropyScratch {
    float* count;   // [1], at least 1
    float* losses;  // [T], 0 where a token does not count

    CrossEntropyScratch(const CrossEntropy& call, Arena& arena);
};

// The first kernel.
void count_tokens(const CrossEntropy& call, const CrossEntropyScratch& scratch);
// The last: loss = sum of losses / count, in a fixed order.
void mean_loss(const CrossEntropy& call, const CrossEntropyScratch& scratch);

}  // namespace dsa
