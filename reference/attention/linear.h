// A linear layer: every row of x times a weight, stored as bf16.
#pragma once

#include "reference/attention/quantize.h"
#include "reference/numerics/ordered.h"

namespace dsa {

// The activations' side of a product with FP8 weights: e4m3, one scale for each 128 numbers of a token.
// DeepSeek-V3 report, section 3.3; DeepSeek-V3.2-Exp, inference/kernel.py, act_quant.
template <class P>
Tensor<P> fp8_operand(const Tensor<P>& x, const Conventions& conventions) {
    return dequantized(quantize(x, Quantizer::deepseek, conventions.scale_format, block_for(x.cols())));
}

// x: [..., K]  w: [K, N], bf16, float32 or block-scaled FP8  -> [..., N]
template <class P>
Tensor<P> linear(const Tensor<P>& x, const Weight& w, const Conventions& conventions) {
    return stored_as_bf16(matmul(w.is_fp8() ? fp8_operand(x, conventions) : x, w));
}

}  // namespace dsa
