#include "reference/model/config.h"

#include "reference/files/json_object.h"
#include "reference/refusal.h"

namespace dsa {
namespace {

using nlohmann::json;

constexpr Index most = Index{1} << 31;

Index size(const JsonObject& in, const char* name) { return in.whole(name, std::nullopt, 1, most); }
Index size_or(const JsonObject& in, const char* name, Index otherwise, Index least = 0) {
    return in.whole(name, otherwise, least, most);
}

void read_rope(const JsonObject& config, RopeParameters& rope) {
    rope.max_context = size(config, "max_position_embeddings");
    rope.theta = config.positive("rope_theta", 10000.0);
    rope.factor = 1.0;  // no YaRN unless the file says so
    for (const char* form : {"rope_scaling", "rope_parameters"}) {
        if (!config.has(form)) continue;
        const JsonObject yarn = config.inside(form);
        rope.theta = yarn.positive("rope_theta", rope.theta);
        const std::string kind = yarn.text("rope_type", yarn.text("type", "default"));
        if (kind == "default") continue;
        require(kind == "yarn", "the rotary embedding's type must be \"yarn\" or \"default\"; it is \"", kind, "\"");
        rope.factor = yarn.positive("factor", 40.0);
        rope.beta_fast = yarn.positive("beta_fast", 32.0);
        rope.beta_slow = yarn.positive("beta_slow", 1.0);
        rope.mscale = yarn.positive("mscale_all_dim", yarn.positive("mscale", 1.0));
        rope.original_context = size_or(yarn, "original_max_position_embeddings", 4096, 1);
    }
}

}  // namespace

ModelConfig config_from_json(const json& in, const std::string& source) {
    const JsonObject entries(in, source);
    ModelConfig c;
    c.vocabulary = size(entries, "vocab_size");
    c.D = size(entries, "hidden_size");
    c.layers = size(entries, "num_hidden_layers");
    c.heads = size(entries, "num_attention_heads");
    c.R_q = size(entries, "q_lora_rank");
    c.R_kv = size(entries, "kv_lora_rank");
    c.d_nope = size(entries, "qk_nope_head_dim");
    c.d_rope = size(entries, "qk_rope_head_dim");
    c.d_v = size(entries, "v_head_dim");
    c.H_I = size(entries, "index_n_heads");
    c.D_I = size(entries, "index_head_dim");
    c.topk = size(entries, "index_topk");
    c.dense_layers = size_or(entries, "first_k_dense_replace", 0);
    c.dense_width = size_or(entries, "intermediate_size", 0);
    c.experts = size_or(entries, "n_routed_experts", 0);
    c.expert_width = size_or(entries, "moe_intermediate_size", 0);
    c.shared_experts = size_or(entries, "n_shared_experts", 0);
    c.tied_embedding = entries.flag("tie_word_embeddings", false);
    c.norm_eps = entries.positive("rms_norm_eps", 1e-6);
    if (c.dense_layers < c.layers) {
        c.experts = size(entries, "n_routed_experts");
        c.expert_width = size(entries, "moe_intermediate_size");
        c.gate.groups = size_or(entries, "n_group", 1, 1);
        c.gate.kept_groups = size_or(entries, "topk_group", 1, 1);
        c.gate.active = size(entries, "num_experts_per_tok");
        c.gate.route_scale = entries.positive("routed_scaling_factor", 1.0);
        c.gate.normalise = entries.flag("norm_topk_prob", true);
        const std::string scoring = entries.text("scoring_func", "sigmoid");
        require(scoring == "sigmoid", "\"scoring_func\" in ", source, " must be \"sigmoid\"; it is \"", scoring,
                "\"");
    }
    if (c.dense_layers > 0) c.dense_width = size(entries, "intermediate_size");
    read_rope(entries, c.rope);

    require(c.d_rope % 2 == 0, "\"qk_rope_head_dim\" in ", source, " must be even; it is ", c.d_rope);
    require(c.D_I >= c.d_rope, "\"index_head_dim\" in ", source, " must be at least qk_rope_head_dim, ", c.d_rope,
            "; it is ", c.D_I);
    require((c.D_I & (c.D_I - 1)) == 0, "\"index_head_dim\" in ", source, " must be a power of two; it is ", c.D_I);
    return c;
}

}  // namespace dsa
