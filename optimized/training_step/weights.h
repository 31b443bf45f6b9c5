// Walking through a layer's weights, whose names and sizes are the contract's.
#pragma once

#include "optimized/training_step/op.h"

namespace dsa {

// visit(pointer, numbers of a layer, whether the indexer owns it) for each weight of `w`.
template <class Weights, class Visit>
void visit_weights(Weights& w, const TrainingSizes& n, const Visit& visit) {
    constexpr bool main = false, indexer = true;
    visit(w.attention_norm, n.D, main);
    visit(w.W_dq, n.D * n.R_q, main);
    visit(w.q_norm, n.R_q, main);
    visit(w.W_uq, n.R_q * n.H * n.d_q(), main);
    visit(w.W_dkv, n.D * n.d(), main);
    visit(w.kv_norm, n.R_kv, main);
    visit(w.W_uk, n.R_kv * n.H * n.d_nope, main);
    visit(w.W_uv, n.R_kv * n.H * n.d_v, main);
    visit(w.W_o, n.H * n.d_v * n.D, main);
    visit(w.W_qI, n.R_q * n.H_I * n.D_I, indexer);
    visit(w.W_kI, n.D * n.D_I, indexer);
    visit(w.k_norm, n.D_I, indexer);
    visit(w.k_bias, n.D_I, indexer);
    visit(w.W_w, n.D * n.H_I, indexer);
    visit(w.ffn_norm, n.D, main);
    visit(w.W_g, n.D * n.E, main);
    visit(w.W_gate, n.E * n.D * n.F, main);
    visit(w.W_up, n.E * n.D * n.F, main);
    visit(w.W_down, n.E * n.F * n.D, main);
    visit(w.shared_W_gate, n.D * n.F_s, main);
    visit(w.shared_W_up, n.D * n.F_s, main);
    visit(w.shared_W_down, n.F_s * n.D, main);
}

inline LayerInputs inputs_of_layer(const TrainingStep& call, std::int64_t l) {
    LayerInputs w = call.layers;
    const auto of_either = [l](const void* first, std::int64_t count, bool is_float32) {
        return static_cast<const unsigned char*>(first) + l * count * (is_float32 ? sizeof(float) : sizeof(bf16));
    };
    visit_weights(w, call.sizes, [&](auto*& first, std::int64_t count, bool) {
        if constexpr (!std::is_same_v<decltype(first), const void*&>) first += l * count;
    });
    w.W_w = of_either(w.W_w, call.sizes.D * call.sizes.H_I, call.W_w_is_float32);
    w.W_g = of_either(w.W_g, call.sizes.D * call.sizes.E, !call.W_g_is_bf16);
    return w;
}

inline LayerGradients gradients_of_layer(const TrainingStep& call, std::int64_t l) {
    LayerGradients d = call.gradients;
    visit_weights(d, call.sizes, [l](float*& first, std::int64_t count, bool) { first += l * count; });
    return d;
}

}  // namespace dsa
