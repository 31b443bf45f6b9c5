#include "reference/conventions.h"

#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "reference/refusal.h"

namespace dsa {
namespace {

using nlohmann::json;

template <class Enum>
using Names = std::vector<std::pair<std::string_view, Enum>>;

const Names<RopeLayout> rope_layouts{{"half_split", RopeLayout::half_split},
                                     {"interleaved", RopeLayout::interleaved}};
const Names<Quantizer> quantizers{{"deepseek", Quantizer::deepseek},
                                  {"flashmla", Quantizer::flashmla},
                                  {"vllm", Quantizer::vllm},
                                  {"no_floor", Quantizer::no_floor},
                                  {"none", Quantizer::none}};
const Names<ScaleFormat> scale_formats{{"float32", ScaleFormat::float32}, {"ue8m0", ScaleFormat::ue8m0}};
const Names<Stored> stored_formats{{"float32", Stored::float32}, {"bf16", Stored::bf16}};
const Names<SparseKlTarget> kl_targets{{"softmax_on_set", SparseKlTarget::softmax_on_set},
                                       {"renormalised", SparseKlTarget::renormalised}};
const Names<KlReduction> kl_reductions{{"sum", KlReduction::sum}, {"mean", KlReduction::mean}};
const Names<LogBase> log_bases{{"natural", LogBase::natural}, {"base2", LogBase::base2}};
const Names<EmptyRowLse> empty_rows{{"-inf", EmptyRowLse::minus_infinity}, {"+inf", EmptyRowLse::plus_infinity}};
const Names<Fp8Sums> fp8_sums{{"float32", Fp8Sums::float32}, {"hopper", Fp8Sums::hopper}};
const Names<NanScores> nan_scores{{"error", NanScores::error}, {"-inf", NanScores::minus_infinity}};

// Visits every switch once: reading and writing JSON are the same walk in two directions.
template <class Walk>
void walk_switches(Conventions& c, Walk&& walk) {
    walk.choice("indexer_rope", c.indexer_rope, rope_layouts);
    walk.flag("hadamard", c.hadamard);
    walk.choice("quantizer", c.quantizer, quantizers);
    walk.choice("scale_format", c.scale_format, scale_formats);
    walk.choice("weights_proj", c.weights_proj, stored_formats);
    walk.choice("indexer_scores", c.indexer_scores, stored_formats);
    walk.choice("fp8_sums", c.fp8_sums, fp8_sums);
    walk.flag("kv_latent_fp8", c.kv_latent_fp8);
    walk.choice("kv_quantizer", c.kv_quantizer, quantizers);
    walk.flag("gate_bias", c.gate_bias);
    walk.number("router_eps", c.router_eps);
    walk.choice("lse", c.lse, log_bases);
    walk.choice("empty_row_lse", c.empty_row_lse, empty_rows);
    walk.choice("sparse_kl_target", c.sparse_kl_target, kl_targets);
    walk.choice("kl_reduction", c.kl_reduction, kl_reductions);
    walk.number("kl_coefficient", c.kl_coefficient);
    walk.flag("yarn_mscale_in_indexer", c.yarn_mscale_in_indexer);
    walk.choice("mla_rope_output", c.mla_rope_output, rope_layouts);
    walk.choice("nan_scores", c.nan_scores, nan_scores);
}

struct Writer {
    json& out;
    template <class Enum>
    void choice(const char* name, const Enum& value, const Names<Enum>& names) {
        for (const auto& [text, meaning] : names)
            if (meaning == value) out[name] = text;
    }
    void flag(const char* name, const bool& value) { out[name] = value; }
    void number(const char* name, const double& value) { out[name] = value; }
};

struct Reader {
    const json& in;
    std::vector<std::string> known{"preset"};

    template <class Enum>
    void choice(const char* name, Enum& value, const Names<Enum>& names) {
        known.emplace_back(name);
        if (!in.contains(name)) return;
        std::string allowed;
        for (const auto& [text, meaning] : names) {
            if (in[name] == text) {
                value = meaning;
                return;
            }
            allowed += (allowed.empty() ? "" : ", ") + std::string(text);
        }
        refuse("the convention ", name, " must be one of ", allowed, "; got ", in[name].dump());
    }
    void flag(const char* name, bool& value) {
        known.emplace_back(name);
        if (!in.contains(name)) return;
        require(in[name].is_boolean(), "the convention ", name, " must be true or false; got ", in[name].dump());
        value = in[name];
    }
    void number(const char* name, double& value) {
        known.emplace_back(name);
        if (!in.contains(name)) return;
        require(in[name].is_number(), "the convention ", name, " must be a number; got ", in[name].dump());
        value = in[name];
    }
};

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
    return text;
}

}  // namespace

std::vector<std::string> preset_names() {
    return {"deepseek-v3.2-exp", "deepseek-v3.2", "transformers", "vllm", "sglang", "flashmla"};
}

// Who does what, with sources, is spec section 9's table and docs/09-conventions.md.
Conventions preset(const std::string& name) {
    Conventions c;  // the defaults are deepseek-v3.2-exp
    if (name == "deepseek-v3.2-exp") return c;
    if (name == "deepseek-v3.2") {
        c.weights_proj = Stored::float32;
        c.indexer_scores = Stored::bf16;
        c.kv_latent_fp8 = true;
        c.kv_quantizer = Quantizer::deepseek;
        return c;
    }
    if (name == "transformers") {
        c.hadamard = false;
        c.quantizer = Quantizer::none;
        c.weights_proj = Stored::float32;
        c.router_eps = 1e-20;
        c.mla_rope_output = RopeLayout::half_split;
        return c;
    }
    if (name == "vllm") {
        c.quantizer = Quantizer::vllm;
        c.kv_latent_fp8 = true;
        return c;
    }
    if (name == "sglang") {
        c.quantizer = Quantizer::no_floor;
        c.kv_latent_fp8 = true;
        return c;
    }
    if (name == "flashmla") {
        c.kv_latent_fp8 = true;
        c.empty_row_lse = EmptyRowLse::plus_infinity;
        return c;
    }
    refuse("there is no preset of conventions named \"", name, "\"; there are ", joined(preset_names()));
}

Conventions conventions_from_json(const json& in) {
    if (in.is_string()) return preset(in.get<std::string>());
    require(in.is_object(), "conventions must be a preset's name or an object of switches; got ", in.dump());
    Conventions c;
    if (in.contains("preset")) {
        require(in["preset"].is_string(), "the preset of conventions must be a name; got ", in["preset"].dump());
        c = preset(in["preset"].get<std::string>());
    }
    Reader reader{in};
    walk_switches(c, reader);
    for (const auto& [key, value] : in.items()) {
        bool found = false;
        for (const auto& name : reader.known) found = found || name == key;
        require(found, "there is no convention named \"", key, "\"; there are ", joined(reader.known));
    }
    return c;
}

json to_json(const Conventions& conventions) {
    json out = json::object();
    Conventions copy = conventions;
    walk_switches(copy, Writer{out});
    return out;
}

}  // namespace dsa
