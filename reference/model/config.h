// A model's sizes, as Hugging Face's config.json gives them.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "reference/attention/rope.h"
#include "reference/moe/gate.h"

namespace dsa {

struct ModelConfig {
    Index vocabulary = 0;
    Index D = 0;
    Index layers = 0;
    Index heads = 0;
    Index R_q = 0;
    Index R_kv = 0;
    Index d_nope = 0;
    Index d_rope = 0;
    Index d_v = 0;
    Index H_I = 0;
    Index D_I = 0;
    Index topk = 0;
    Index dense_layers = 0;  // the first layers, with one dense feed-forward
    Index dense_width = 0;
    Index experts = 0;
    Index expert_width = 0;
    Index shared_experts = 0;
    bool tied_embedding = false;
    GateShape gate;
    RopeParameters rope;
    double norm_eps = 1e-6;

    double scale() const { return softmax_scale(rope, d_nope, d_rope); }
};

// Reads both forms of rotary settings: `rope_theta` with `rope_scaling`, and `rope_parameters`
// (transformers from version 5). A missing or impossible entry is refused by its name. `source` names the
// file in such sentences.
ModelConfig config_from_json(const nlohmann::json& json, const std::string& source);

}  // namespace dsa
