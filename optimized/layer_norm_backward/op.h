// The gradients of LayerNorm. With n = (x - mean) / deviation and g = dy * weight: dx = (g - mean(g) - n mean(g n)) /
// deviation, dweight = sum over tokens of dy n, dbias = sum over tokens of dy. spec section 3; docs/14-gradients.md.
//
// level 1  one block a row for dx; one thread a column of dweight and dbias walks down all tokens
// level 2  the tokens are split into pieces, whose sums are added in their order
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct LayerNormBackward {
    const bf16* x;        // [T, D]
    const float* weight;  // [D]
    const bf16* dy;       // [T, D]
    bf16* dx;             // [T, D]
    float* dweight;       // [D]
    float* dbias;         // [D]
    std::int64_t T, D;
    float eps;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

void layer_norm_backward_level_1(const LayerNormBackward& call);
std::int64_t layer_norm_backward_level_1_workspace(const LayerNormBackward& call);
void layer_norm_backward_level_2(const LayerNormBackward& call);
std::int64_t layer_norm_backward_level_2_workspace(const LayerNormBackward& call);

}  // namespace dsa
