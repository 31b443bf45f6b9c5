// What lies between the products of a mixture's backward pass.
#pragma once

#include "optimized/moe_backward/op.h"

namespace dsa {

// With s = sigmoid(gate): d_gate = d_hidden up s (1 + gate (1 - s)), d_up = d_hidden gate s. [count]; d_gate may be
// d_hidden's place.
void silu_product_backward(const bf16* gate, const bf16* up, const bf16* d_hidden, bf16* d_gate, bf16* d_up,
                           std::int64_t count, Stream stream);

// A token's choices. scores: [T, E]; out: [visits, D], what the experts made, replaced by its gradient dy weight;
// d_logits: [visits], of x W_g at the visited experts.
struct Choices {
    const MoeGate* gate;           // with its outputs
    const float* scores;           // [T, E]
    const std::int32_t* visit_of;  // [T, active]
    const bf16* dy;                // [T, D]
    bf16* out;                     // [visits, D]
    float* d_logits;               // [visits]
};
void choices_backward(const Choices& call);

// dW_g[d, e] = sum over the visits of e of x[token_of[v], d] d_logits[v].
void gate_weight_gradient(const MoeBackward& call, const std::int32_t* first_row, const std::int32_t* token_of,
                          const float* d_logits);

// dx[t] = sum over t's visits v of (from_gate[v] + from_up[v] + d_logits[v] W_g[:, e]), plus the shared expert's two.
struct InputGradient {
    const std::int32_t* experts;           // [T, active]
    const std::int32_t* visit_of;          // [T, active]
    const float* d_logits;                 // [visits]
    const float *from_gate, *from_up;      // [visits, D]
    const float *shared_gate, *shared_up;  // [T, D]
};
void input_gradient(const MoeBackward& call, const InputGradient& parts);

}  // namespace dsa
