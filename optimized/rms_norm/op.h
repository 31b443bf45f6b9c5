// RMSNorm: y = x * rsqrt(mean(x^2) + eps) * weight. spec section 2.
//
// level 1  one block a row: each thread adds its squares, the block adds the threads
// level 2  a row is read once, 16 bytes a thread at a time, and stays in registers
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct RmsNorm {
    const bf16* x;        // [T, D]
    const float* weight;  // [D]
    bf16* y;              // [T, D]
    std::int64_t T, D;
    float eps;
    Stream stream;
};

void rms_norm_level_1(const RmsNorm& call);
void rms_norm_level_2(const RmsNorm& call);
std::string rms_norm_level_2_declines(const RmsNorm& call);

}  // namespace dsa
