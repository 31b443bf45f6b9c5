// LayerNorm: y = (x - mean) * rsqrt(variance + eps) * weight + bias. spec section 3.
//
// level 1  one block a row: a pass for the mean, one for the variance, one for y
// level 2  one warp a row, which stays in registers: no barrier, and the row is read once
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct LayerNorm {
    const bf16* x;        // [T, D]
    const float* weight;  // [D]
    const float* bias;    // [D]
    bf16* y;              // [T, D]
    std::int64_t T, D;
    float eps;
    Stream stream;
};

void layer_norm_level_1(const LayerNorm& call);
void layer_norm_level_2(const LayerNorm& call);
std::string layer_norm_level_2_declines(const LayerNorm& call);

}  // namespace dsa
