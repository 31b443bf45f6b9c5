// The weights of an attention block and of a mixture of experts, as ops take them. All matrices are
// [in, out]: x W means that each row of x is multiplied by W.
#pragma once

#include "reference/model/block.h"
#include "reference/ops/inputs.h"

namespace dsa {

// W_dq [D, R_q]  q_norm [R_q]  W_uq [R_q, H, d_nope + d_rope]  W_dkv [D, R_kv + d_rope]  kv_norm [R_kv]
inline MlaWeights mla_projection_weights(const OpInputs& in) {
    MlaWeights w;
    w.W_dq = in.weight("W_dq", {"D", "R_q"});
    w.q_norm = in.vector("q_norm", {"R_q"});
    w.W_uq = in.weight("W_uq", {"R_q", "H", "d_nope + d_rope"});
    w.W_dkv = in.weight("W_dkv", {"D", "R_kv + d_rope"});
    w.kv_norm = in.vector("kv_norm", {"R_kv"});
    w.heads = in.size("H");
    require(w.d_rope() > 0, "W_dkv must have more columns than kv_norm has numbers: R_kv + d_rope; it has ",
            w.W_dkv.cols());
    require(w.d_nope() > 0, "W_uq must have more than d_rope = ", w.d_rope(), " columns a head; it has ",
            w.W_uq.cols() / w.heads);
    return w;
}

// ... and W_uk [R_kv, H, d_nope]  W_uv [R_kv, H, d_v]  W_o [H, d_v, D]
inline MlaWeights mla_weights(const OpInputs& in) {
    MlaWeights w = mla_projection_weights(in);
    w.W_uk = in.weight("W_uk", {"R_kv", "H", w.d_nope()});
    w.W_uv = in.weight("W_uv", {"R_kv", "H", "d_v"});
    // [H, d_v, D] seen as [H d_v, D]
    const Weight by_head = in.weight("W_o", {"H", "d_v", "D"});
    const Index D = in.size("D");
    const Index d_v = in.size("d_v");
    w.W_o = Weight("W_o", w.heads * d_v, D, [by_head, D, d_v](Index row, Index first, Index count, float* out) {
        by_head.read(row / d_v, row % d_v * D + first, count, out);
    });
    if (by_head.is_fp8()) w.W_o = w.W_o.marked_fp8();
    return w;
}

// W_qI [R_q, H_I, D_I]  W_kI [D, D_I]  k_norm, k_bias [D_I]  W_w [D, H_I]
inline IndexerWeights indexer_weights(const OpInputs& in) {
    IndexerWeights w;
    w.W_qI = in.weight("W_qI", {"R_q", "H_I", "D_I"});
    w.W_kI = in.weight("W_kI", {"D", "D_I"});
    w.k_norm = in.vector("k_norm", {"D_I"});
    w.k_bias = in.vector("k_bias", {"D_I"});
    w.W_w = in.weight("W_w", {"D", "H_I"});
    return w;
}

inline FeedForwardWeights feed_forward_weights(const OpInputs& in, const std::string& prefix,
                                               const std::string& width) {
    return {in.weight(prefix + "W_gate", {"D", width.c_str()}), in.weight(prefix + "W_up", {"D", width.c_str()}),
            in.weight(prefix + "W_down", {width.c_str(), "D"})};
}

inline GateShape gate_shape(const OpInputs& in) {
    GateShape shape;
    shape.groups = in.whole("groups", 8);
    shape.kept_groups = in.whole("kept_groups", 4);
    shape.active = in.whole("active", 8);
    shape.route_scale = in.number("route_scale", 2.5);
    shape.normalise = in.flag("normalise", true);
    return shape;
}

// W_g [D, E]  bias [E]
inline MoeWeights gate_weights(const OpInputs& in) {
    MoeWeights w;
    w.W_g = in.weight("W_g", {"D", "E"});
    if (in.conventions().gate_bias) w.bias = in.vector("bias", {"E"});
    w.shape = gate_shape(in);
    return w;
}

// ... and W_gate, W_up [E, D, F]  W_down [E, F, D], optionally shared_W_gate, shared_W_up [D, F_shared] and
// shared_W_down [F_shared, D]
inline MoeWeights moe_weights(const OpInputs& in) {
    MoeWeights w = gate_weights(in);
    const auto W_gate = in.weight_stack("W_gate", {"E", "D", "F"});
    const auto W_up = in.weight_stack("W_up", {"E", "D", "F"});
    const auto W_down = in.weight_stack("W_down", {"E", "F", "D"});
    w.expert = [=](Index e) { return FeedForwardWeights{W_gate(e), W_up(e), W_down(e)}; };
    if (in.has("shared_W_gate")) w.shared = feed_forward_weights(in, "shared_", "F_shared");
    return w;
}

inline AttentionSettings attention_settings(const OpInputs& in, const MlaWeights& w) {
    AttentionSettings settings;
    settings.topk = in.whole("topk");
    settings.rope = in.rope();
    settings.scale = in.number("scale", softmax_scale(settings.rope, w.d_nope(), w.d_rope()));
    settings.norm_eps = in.number("eps", norm_epsilon);
    settings.conventions = in.conventions();
    return settings;
}

// cache_kv [S - T, R_kv + d_rope], cache_k [S - T, D_I] and cache_k_scale [S - T]: the tokens before; all or none.
template <class P>
LayerCache<P> layer_cache(const OpInputs& in) {
    if (!in.has("cache_kv") && !in.has("cache_k") && !in.has("cache_k_scale")) return {};
    return {in.tensor<P>("cache_kv", {"S - T", "R_kv + d_rope"}), in.tensor<P>("cache_k", {"S - T", "D_I"}),
            in.tensor<P>("cache_k_scale", {"S - T"})};
}

}  // namespace dsa
