// One layer: attention and a feed-forward net, each on a normalised copy, each added to the residual stream.
#pragma once

#include <optional>

#include "reference/model/attention_block.h"
#include "reference/moe/experts.h"

namespace dsa {

struct BlockWeights {
    Array<float> attention_norm;  // [D]
    AttentionWeights attention;
    Array<float> ffn_norm;                    // [D]
    std::optional<FeedForwardWeights> dense;  // the first layers
    std::optional<MoeWeights> moe;            // the others
};

// The residual stream after an addition, stored as bf16.
template <class P>
Tensor<P> added(Tensor<P> x, const Tensor<P>& y) {
    x.matrix() += y.matrix();
    return stored_as_bf16(std::move(x));
}

// x: [T, D]  -> [T, D]
template <class P>
Tensor<P> moe_layer(const Tensor<P>& x, const MoeWeights& w, const Conventions& conventions, const Trace& trace) {
    Gate<P> gate = moe_gate(x, w.W_g, w.bias, w.shape, conventions);
    gate.scores = trace.pass("gate_scores", std::move(gate.scores), DType::float32);
    gate.experts = trace.pass("expert_ids", std::move(gate.experts));
    gate.weights = trace.pass("expert_weights", expert_weights(gate, w.shape, conventions), DType::float32);
    return moe(x, gate, w, conventions);
}

// hidden: [T, D]  -> [T, D]
template <class P>
Tensor<P> transformer_block(const Tensor<P>& hidden, const Array<std::int32_t>& positions,
                            const Array<std::int32_t>& start, LayerCache<P>& cache, const BlockWeights& w,
                            const AttentionSettings& settings, const Trace& trace) {
    const Tensor<P> x =
        trace.pass("attention_input", rms_norm(hidden, w.attention_norm, settings.norm_eps), DType::bfloat16);
    const Tensor<P> middle = trace.pass(
        "after_attention", added(hidden, dsa_attention(x, positions, start, cache, w.attention, settings, trace)),
        DType::bfloat16);
    const Tensor<P> z = trace.pass("ffn_input", rms_norm(middle, w.ffn_norm, settings.norm_eps), DType::bfloat16);
    const Tensor<P> y = trace.pass(
        "ffn_y",
        w.dense ? feed_forward(z, *w.dense, settings.conventions) : moe_layer(z, *w.moe, settings.conventions, trace),
        DType::bfloat16);
    return trace.pass("after_ffn", added(middle, y), DType::bfloat16);
}

}  // namespace dsa
