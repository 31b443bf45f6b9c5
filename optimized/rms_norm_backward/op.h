// The gradients of RMSNorm. With n = x / rms(x) and g = dy * weight: dx = (g - n mean(g n)) / rms(x), dweight = sum
// over tokens of dy n. spec section 2; docs/14-gradients.md.
//
// level 1  one block a row for dx; one thread a column of dweight walks down all tokens
// level 2  the tokens are split into pieces, whose sums are added in their order
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct RmsNormBackward {
    const bf16* x;        // [T, D]
    const float* weight;  // [D]
    const bf16* dy;       // [T, D]
    bf16* dx;             // [T, D]
    float* dweight;       // [D]
    std::int64_t T, D;
    float eps;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
    // [T, D], added to dx before it is stored: the residual stream's gradient. Or null.
    const bf16* residual = nullptr;
};

void rms_norm_backward_level_1(const RmsNormBackward& call);
std::int64_t rms_norm_backward_level_1_workspace(const RmsNormBackward& call);
void rms_norm_backward_level_2(const RmsNormBackward& call);
std::int64_t rms_norm_backward_level_2_workspace(const RmsNormBackward& call);

}  // namespace dsa
