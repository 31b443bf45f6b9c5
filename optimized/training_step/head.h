// The way back through the head. Its gradient is float32, and the tensor cores would round it: so it is three bf16
// numbers, whose sum it is, and three products that are added. The weight's gradient, whose kernel on the tensor
// cores is no three times as fast as the plain one, takes it as it is.
#pragma once

#include "optimized/support/arena.h"
#include "optimized/training_step/parts.h"

namespace dsa {

// Where the tensor cores take the sizes; else both are null.
struct HeadScratch {
    bf16* d_logits;  // [3, T, V], the smallest part first
    float* d_last;   // [3, T, D]

    HeadScratch(const TrainingStep& call, const Parts& parts, Arena& arena);
};

// d_logits [T, V], last [T, D] -> d_last [T, D], dhead [D, V]
void head_backward(const TrainingStep& call, const Parts& parts, const HeadScratch& scratch, const float* d_logits,
                   const bf16* last, bf16* d_last);

}  // namespace dsa
