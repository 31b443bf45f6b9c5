#include "reference/model/config.h"

#include <nlohmann/json.hpp>

#include "reference/refusal.h"

namespace dsa {
namespace {

using nlohmann::json;

class Entries {
   public:
    Entries(const json& object, std::string source) : object_(object), source_(std::move(source)) {
        require(object.is_object(), source_, " must hold a JSON object; it holds ", object.type_name());
    }

    bool has(const std::string& name) const { return object_.contains(name) && !object_[name].is_null(); }

    // A whole number from `least` to 2^31.
    Index whole(const std::string& name, Index least = 1) const {
        require(has(name), source_, " must have \"", name, "\"; it has none");
        return checked_whole(name, least);
    }
    Index whole_or(const std::string& name, Index otherwise, Index least = 0) const {
        return has(name) ? checked_whole(name, least) : otherwise;
    }
    double number_or(const std::string& name, double otherwise) const {
        if (!has(name)) return otherwise;
        require(object_[name].is_number(), "\"", name, "\" in ", source_, " must be a number; it is ",
                object_[name].dump());
        const double value = object_[name];
        require(std::isfinite(value) && value > 0.0, "\"", name, "\" in ", source_, " must be above 0; it is ",
                value);
        return value;
    }
    bool flag_or(const std::string& name, bool otherwise) const {
        if (!has(name)) return otherwise;
        require(object_[name].is_boolean(), "\"", name, "\" in ", source_, " must be true or false; it is ",
                object_[name].dump());
        return object_[name];
    }
    Entries inside(const std::string& name) const { return {object_[name], "\"" + name + "\" in " + source_}; }
    std::string text_or(const std::string& name, const std::string& otherwise) const {
        return has(name) && object_[name].is_string() ? object_[name].get<std::string>() : otherwise;
    }

   private:
    Index checked_whole(const std::string& name, Index least) const {
        const json& entry = object_[name];
        require(entry.is_number_integer(), "\"", name, "\" in ", source_, " must be a whole number; it is ",
                entry.dump());
        const auto value = entry.get<std::int64_t>();
        require(value >= least && value <= (std::int64_t{1} << 31), "\"", name, "\" in ", source_,
                " must be between ", least, " and 2^31; it is ", value);
        return value;
    }

    const json& object_;
    std::string source_;
};

void read_rope(const Entries& config, RopeParameters& rope) {
    rope.max_context = config.whole("max_position_embeddings");
    rope.theta = config.number_or("rope_theta", 10000.0);
    rope.factor = 1.0;  // no YaRN unless the file says so
    for (const char* form : {"rope_scaling", "rope_parameters"}) {
        if (!config.has(form)) continue;
        const Entries yarn = config.inside(form);
        rope.theta = yarn.number_or("rope_theta", rope.theta);
        const std::string kind = yarn.text_or("rope_type", yarn.text_or("type", "default"));
        if (kind == "default") continue;
        require(kind == "yarn", "the rotary embedding's type must be \"yarn\" or \"default\"; it is \"", kind, "\"");
        rope.factor = yarn.number_or("factor", 40.0);
        rope.beta_fast = yarn.number_or("beta_fast", 32.0);
        rope.beta_slow = yarn.number_or("beta_slow", 1.0);
        rope.mscale = yarn.number_or("mscale_all_dim", yarn.number_or("mscale", 1.0));
        rope.original_context = yarn.whole_or("original_max_position_embeddings", 4096, 1);
    }
}

}  // namespace

ModelConfig config_from_json(const json& in, const std::string& source) {
    const Entries entries(in, source);
    ModelConfig c;
    c.vocabulary = entries.whole("vocab_size");
    c.D = entries.whole("hidden_size");
    c.layers = entries.whole("num_hidden_layers");
    c.heads = entries.whole("num_attention_heads");
    c.R_q = entries.whole("q_lora_rank");
    c.R_kv = entries.whole("kv_lora_rank");
    c.d_nope = entries.whole("qk_nope_head_dim");
    c.d_rope = entries.whole("qk_rope_head_dim");
    c.d_v = entries.whole("v_head_dim");
    c.H_I = entries.whole("index_n_heads");
    c.D_I = entries.whole("index_head_dim");
    c.topk = entries.whole("index_topk");
    c.dense_layers = entries.whole_or("first_k_dense_replace", 0);
    c.dense_width = entries.whole_or("intermediate_size", 0);
    c.experts = entries.whole_or("n_routed_experts", 0);
    c.expert_width = entries.whole_or("moe_intermediate_size", 0);
    c.shared_experts = entries.whole_or("n_shared_experts", 0);
    c.tied_embedding = entries.flag_or("tie_word_embeddings", false);
    c.norm_eps = entries.number_or("rms_norm_eps", 1e-6);
    if (c.dense_layers < c.layers) {
        c.experts = entries.whole("n_routed_experts");
        c.expert_width = entries.whole("moe_intermediate_size");
        c.gate.groups = entries.whole_or("n_group", 1, 1);
        c.gate.kept_groups = entries.whole_or("topk_group", 1, 1);
        c.gate.active = entries.whole("num_experts_per_tok");
        c.gate.route_scale = entries.number_or("routed_scaling_factor", 1.0);
        c.gate.normalise = entries.flag_or("norm_topk_prob", true);
        const std::string scoring = entries.text_or("scoring_func", "sigmoid");
        require(scoring == "sigmoid", "\"scoring_func\" in ", source, " must be \"sigmoid\"; it is \"", scoring,
                "\"");
    }
    if (c.dense_layers > 0) c.dense_width = entries.whole("intermediate_size");
    read_rope(entries, c.rope);

    require(c.d_rope % 2 == 0, "\"qk_rope_head_dim\" in ", source, " must be even; it is ", c.d_rope);
    require(c.D_I >= c.d_rope, "\"index_head_dim\" in ", source, " must be at least qk_rope_head_dim, ", c.d_rope,
            "; it is ", c.D_I);
    require((c.D_I & (c.D_I - 1)) == 0, "\"index_head_dim\" in ", source, " must be a power of two; it is ", c.D_I);
    return c;
}

}  // namespace dsa
