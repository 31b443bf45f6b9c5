#include "optimized/support/case.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

namespace dsa {
namespace {

using nlohmann::json;

// One of the words of `choices`.
template <class T>
void choose(const json& value, const std::string& name, const std::map<std::string, T>& choices, T& target) {
    if (value.is_string())
        if (const auto found = choices.find(value.get<std::string>()); found != choices.end()) {
            target = found->second;
            return;
        }
    std::string words;
    for (const auto& [word, meaning] : choices) words += (words.empty() ? "" : ", ") + word;
    refuse(Status::bad_argument, "the convention ", name, " must be one of ", words, "; it is ", value.dump());
}

void choose(const json& value, const std::string& name, bool& target) {
    require(value.is_boolean(), "the convention ", name, " must be true or false; it is ", value.dump());
    target = value.get<bool>();
}

void choose(const json& value, const std::string& name, double& target) {
    require(value.is_number(), "the convention ", name, " must be a number; it is ", value.dump());
    target = value.get<double>();
}

const std::map<std::string, Quantizer> quantizers{{"deepseek", Quantizer::deepseek},
                                                  {"flashmla", Quantizer::flashmla},
                                                  {"vllm", Quantizer::vllm},
                                                  {"no_floor", Quantizer::no_floor},
                                                  {"none", Quantizer::none}};
const std::map<std::string, RopeLayout> layouts{{"half_split", RopeLayout::half_split},
                                                {"interleaved", RopeLayout::interleaved}};

void set(Conventions& c, const std::string& name, const json& value) {
    if (name == "indexer_rope") return choose(value, name, layouts, c.indexer_rope);
    if (name == "hadamard") return choose(value, name, c.hadamard);
    if (name == "quantizer") return choose(value, name, quantizers, c.quantizer);
    if (name == "scale_format") return choose<bool>(value, name, {{"ue8m0", true}, {"float32", false}}, c.ue8m0);
    if (name == "weights_proj")
        return choose<bool>(value, name, {{"bf16", true}, {"float32", false}}, c.weights_proj_bf16);
    if (name == "indexer_scores")
        return choose<bool>(value, name, {{"bf16", true}, {"float32", false}}, c.indexer_scores_bf16);
    if (name == "fp8_sums")
        return choose<bool>(value, name, {{"hopper", true}, {"float32", false}}, c.hopper_fp8_sums);
    if (name == "kv_latent_fp8") return choose(value, name, c.kv_latent_fp8);
    if (name == "kv_quantizer") return choose(value, name, quantizers, c.kv_quantizer);
    if (name == "gate_bias") return choose(value, name, c.gate_bias);
    if (name == "router_eps") return choose(value, name, c.router_eps);
    if (name == "lse") return choose<bool>(value, name, {{"base2", true}, {"natural", false}}, c.lse_base2);
    if (name == "empty_row_lse")
        return choose<bool>(value, name, {{"+inf", true}, {"-inf", false}}, c.empty_row_plus_infinity);
    if (name == "sparse_kl_target")
        return choose<bool>(value, name, {{"renormalised", true}, {"softmax_on_set", false}}, c.target_renormalised);
    if (name == "kl_reduction") return choose<bool>(value, name, {{"mean", true}, {"sum", false}}, c.kl_mean);
    if (name == "kl_coefficient") return choose(value, name, c.kl_coefficient);
    if (name == "yarn_mscale_in_indexer") return choose(value, name, c.yarn_mscale_in_indexer);
    if (name == "mla_rope_output") return choose(value, name, layouts, c.mla_rope_output);
    if (name == "nan_scores")
        return choose<bool>(value, name, {{"-inf", true}, {"error", false}}, c.nan_as_minus_infinity);
    refuse(Status::bad_argument, "there is no convention named \"", name, "\"; docs/09-conventions.md lists them");
}

// Who does what: spec section 9 and docs/09-conventions.md.
const std::map<std::string, json> presets{
    {"deepseek-v3.2-exp", json::object()},
    {"deepseek-v3.2",
     {{"weights_proj", "float32"},
      {"indexer_scores", "bf16"},
      {"kv_latent_fp8", true},
      {"kv_quantizer", "deepseek"}}},
    {"transformers",
     {{"hadamard", false},
      {"quantizer", "none"},
      {"weights_proj", "float32"},
      {"router_eps", 1e-20},
      {"mla_rope_output", "half_split"}}},
    {"vllm", {{"quantizer", "vllm"}, {"kv_latent_fp8", true}}},
    {"sglang", {{"quantizer", "no_floor"}, {"kv_latent_fp8", true}}},
    {"flashmla", {{"kv_latent_fp8", true}, {"empty_row_lse", "+inf"}}},
};

Conventions conventions_of(const json& in) {
    Conventions c;
    const bool is_name = in.is_string();
    require(is_name || in.is_object(), "conventions must be a preset's name or an object of switches; they are ",
            in.dump());
    const json name = is_name ? in : in.value("preset", json("deepseek-v3.2-exp"));
    const auto preset = name.is_string() ? presets.find(name.get<std::string>()) : presets.end();
    require(preset != presets.end(), "there is no preset of conventions named ", name.dump());
    for (const auto& [key, value] : preset->second.items()) set(c, key, value);
    if (!is_name)
        for (const auto& [key, value] : in.items())
            if (key != "preset") set(c, key, value);
    return c;
}

RopeParameters rope_of(const json& in) {
    require(in.is_object(), "the parameter rope must be an object; it is ", in.dump());
    RopeParameters p;
    const std::map<std::string, double*> fields{{"theta", &p.theta},
                                                {"factor", &p.factor},
                                                {"beta_fast", &p.beta_fast},
                                                {"beta_slow", &p.beta_slow},
                                                {"original_context", &p.original_context},
                                                {"max_context", &p.max_context},
                                                {"mscale", &p.mscale}};
    for (const auto& [key, value] : in.items()) {
        const auto field = fields.find(key);
        require(field != fields.end(), "rope has no entry named \"", key, "\"");
        require(value.is_number(), "rope's ", key, " must be a number; it is ", value.dump());
        *field->second = value.get<double>();
    }
    return p;
}

}  // namespace

double RopeParameters::yarn_mscale() const { return uses_yarn() ? 0.1 * mscale * std::log(factor) + 1.0 : 1.0; }

struct Case::Json {
    json parameters = json::object();
};

Case::Case() : json_(new Json) {}
Case::Case(const char* text) : Case() {
    if (text == nullptr) return;
    const json all = json::parse(text, nullptr, false);
    require(all.is_object(), "case_json must be a JSON object, as docs/case-format.md describes it, or NULL");
    if (all.value("tier", "deployed") != std::string("deployed"))
        refuse(Status::not_implemented, "these kernels compute in low precision: the tier must be deployed; it is ",
               all["tier"].dump());
    json_->parameters = all.value("parameters", json::object());
    require(json_->parameters.is_object(), "\"parameters\" in case_json must be an object");
    if (all.contains("conventions")) conventions_ = conventions_of(all["conventions"]);
    if (json_->parameters.contains("rope")) rope_ = rope_of(json_->parameters["rope"]);
}
Case::~Case() { delete json_; }

double Case::number(const std::string& name, double field, double otherwise) const {
    const auto found = json_->parameters.find(name);
    if (found == json_->parameters.end()) return field != 0.0 ? field : otherwise;
    require(found->is_number(), "the parameter ", name, " must be a number; it is ", found->dump());
    return found->get<double>();
}

std::int64_t Case::whole(const std::string& name, std::int64_t field, std::int64_t otherwise) const {
    const auto found = json_->parameters.find(name);
    if (found == json_->parameters.end()) return field != 0 ? field : otherwise;
    require(found->is_number_integer(), "the parameter ", name, " must be a whole number; it is ", found->dump());
    return found->get<std::int64_t>();
}

bool Case::flag(const std::string& name, std::int64_t field, bool otherwise) const {
    const auto found = json_->parameters.find(name);
    if (found == json_->parameters.end()) return field != 0 || otherwise;
    require(found->is_boolean(), "the parameter ", name, " must be true or false; it is ", found->dump());
    return found->get<bool>();
}

RopeLayout Case::layout(const std::string& name, RopeLayout otherwise) const {
    const auto found = json_->parameters.find(name);
    if (found == json_->parameters.end()) return otherwise;
    choose(*found, name, layouts, otherwise);
    return otherwise;
}

std::string Case::text(const std::string& name, const std::string& otherwise) const {
    const auto found = json_->parameters.find(name);
    if (found == json_->parameters.end()) return otherwise;
    require(found->is_string(), "the parameter ", name, " must be a text; it is ", found->dump());
    return found->get<std::string>();
}

double Case::softmax_scale(double field, std::int64_t d_nope, std::int64_t d_rope) const {
    const double m = rope_.yarn_mscale();
    return number("scale", field, m * m / std::sqrt(static_cast<double>(d_nope + d_rope)));
}

}  // namespace dsa
