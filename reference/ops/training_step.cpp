// training_step: a whole small model, forwards and backwards, in each of the three stages of DSA's training.
// docs/14-gradients.md.
#include "reference/model/checkpoint.h"
#include "reference/ops/learning_weights.h"
#include "reference/ops/registry.h"
#include "reference/ops/weights.h"

namespace dsa {

template class Forward<Exact>;

namespace {

// The weights of L layers, stacked, by the contract's names.
const std::vector<std::pair<const char*, Axes>>& stacked_weights() {
    static const std::vector<std::pair<const char*, Axes>> all{{"embedding", {"V", "D"}},
                                                               {"attention_norm", {"L", "D"}},
                                                               {"W_dq", {"L", "D", "R_q"}},
                                                               {"q_norm", {"L", "R_q"}},
                                                               {"W_uq", {"L", "R_q", "H", "d_nope + d_rope"}},
                                                               {"W_dkv", {"L", "D", "R_kv + d_rope"}},
                                                               {"kv_norm", {"L", "R_kv"}},
                                                               {"W_uk", {"L", "R_kv", "H", "d_nope"}},
                                                               {"W_uv", {"L", "R_kv", "H", "d_v"}},
                                                               {"W_o", {"L", "H", "d_v", "D"}},
                                                               {"W_qI", {"L", "R_q", "H_I", "D_I"}},
                                                               {"W_kI", {"L", "D", "D_I"}},
                                                               {"k_norm", {"L", "D_I"}},
                                                               {"k_bias", {"L", "D_I"}},
                                                               {"W_w", {"L", "D", "H_I"}},
                                                               {"ffn_norm", {"L", "D"}},
                                                               {"W_g", {"L", "D", "E"}},
                                                               {"W_gate", {"L", "E", "D", "F"}},
                                                               {"W_up", {"L", "E", "D", "F"}},
                                                               {"W_down", {"L", "E", "F", "D"}},
                                                               {"shared_W_gate", {"L", "D", "F_s"}},
                                                               {"shared_W_up", {"L", "D", "F_s"}},
                                                               {"shared_W_down", {"L", "F_s", "D"}},
                                                               {"final_norm", {"D"}},
                                                               {"head", {"D", "V"}}};
    return all;
}

ModelConfig config_of(const OpInputs& in) {
    ModelConfig c;
    c.vocabulary = in.size("V");
    c.D = in.size("D");
    c.layers = in.size("L");
    c.heads = in.size("H");
    c.R_q = in.size("R_q");
    c.R_kv = in.size("R_kv");
    c.d_rope = in.size("R_kv + d_rope") - c.R_kv;
    c.d_nope = in.size("d_nope");
    c.d_v = in.size("d_v");
    c.H_I = in.size("H_I");
    c.D_I = in.size("D_I");
    require(
        c.d_rope > 0 && c.d_rope % 2 == 0 && c.d_rope <= c.D_I && c.d_nope + c.d_rope == in.size("d_nope + d_rope"),
        "training_step: W_dkv must have R_kv + d_rope columns, d_rope even and at most D_I, and W_uq d_nope + d_rope "
        "a "
        "head; they have ",
        in.size("R_kv + d_rope"), " and ", in.size("d_nope + d_rope"));
    c.experts = in.size("E");
    c.expert_width = in.size("F");
    require(in.size("F_s") % c.expert_width == 0, "training_step: the shared expert must be a multiple of ",
            c.expert_width, ", an expert's width; it is ", in.size("F_s"));
    c.shared_experts = in.size("F_s") / c.expert_width;
    c.gate = gate_shape(in);
    c.rope = in.rope();
    c.norm_eps = in.number("eps", norm_epsilon);
    return c;
}

std::vector<WeightPlace> places_of(const ModelConfig& c) {
    std::vector<WeightPlace> all{{"final_norm", 0, "model.norm.weight", 1, c.D},
                                 {"head", 0, "lm_head.weight", c.D, c.vocabulary}};
    for (Index l = 0; l < c.layers; ++l) {
        const std::string layer = "model.layers." + std::to_string(l) + ".";
        const std::string attention = layer + "self_attn.";
        const Index head = c.d_nope + c.d_v;
        const std::vector<WeightPlace> of_layer{
            {"attention_norm", l, layer + "input_layernorm.weight", 1, c.D},
            {"W_dq", l, attention + "q_a_proj.weight", c.D, c.R_q},
            {"q_norm", l, attention + "q_a_layernorm.weight", 1, c.R_q},
            {"W_uq", l, attention + "q_b_proj.weight", c.R_q, c.heads * (c.d_nope + c.d_rope)},
            {"W_dkv", l, attention + "kv_a_proj_with_mqa.weight", c.D, c.R_kv + c.d_rope},
            {"kv_norm", l, attention + "kv_a_layernorm.weight", 1, c.R_kv},
            {"W_uk", l, attention + "kv_b_proj.weight", c.R_kv, c.heads * c.d_nope, c.d_nope, head, 0},
            {"W_uv", l, attention + "kv_b_proj.weight", c.R_kv, c.heads * c.d_v, c.d_v, head, c.d_nope},
            {"W_o", l, attention + "o_proj.weight", c.heads * c.d_v, c.D},
            {"W_qI", l, attention + "indexer.wq_b.weight", c.R_q, c.H_I * c.D_I},
            {"W_kI", l, attention + "indexer.wk.weight", c.D, c.D_I},
            {"k_norm", l, attention + "indexer.k_norm.weight", 1, c.D_I},
            {"k_bias", l, attention + "indexer.k_norm.bias", 1, c.D_I},
            {"W_w", l, attention + "indexer.weights_proj.weight", c.D, c.H_I},
            {"ffn_norm", l, layer + "post_attention_layernorm.weight", 1, c.D}};
        all.insert(all.end(), of_layer.begin(), of_layer.end());
        for (WeightPlace& place :
             mixture_places(l, layer + "mlp.", c.D, c.experts, c.expert_width, c.expert_width * c.shared_experts))
            all.push_back(std::move(place));
    }
    return all;
}

struct TrainingStep {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        std::map<std::string, Tensor<P>> stacks;
        for (const auto& [name, axes] : stacked_weights()) stacks.emplace(name, in.tensor<P>(name, axes));
        const auto tokens = in.integers("tokens", {"T"}, 0, in.size("V") - 1);
        const auto targets = in.integers("targets", {"T"}, -1, in.size("V") - 1);
        ModelConfig config = config_of(in);
        const std::string stage = in.choice("stage", {"dense", "warmup", "sparse"}, "sparse");
        config.topk = in.whole("topk");

        const std::vector<WeightPlace> places = places_of(config);
        Parameters<P> parameters;
        for (const auto& [name, shape] : tensor_shapes(config)) parameters.emplace(name, Tensor<P>(shape));
        parameters.at("model.embed_tokens.weight") = stacks.at("embedding");
        for (const WeightPlace& place : places)
            copy_to_parameter(stacks.at(place.tensor), place, parameters.at(place.parameter));
        if (in.conventions().gate_bias) {
            const auto bias = in.tensor<P>("bias", {"L", "E"});
            for (Index l = 0; l < config.layers; ++l)
                parameters.at("model.layers." + std::to_string(l) + ".mlp.gate.e_score_correction_bias").row(0) =
                    bias.row(l);
        }

        ForwardOptions options;
        options.selection = stage == "sparse" ? Selection::indexer : Selection::dense;
        options.main_learns = stage != "warmup";
        options.indexer_learns = stage != "dense";
        options.simulates_fp8 = in.flag("simulate_fp8", false);
        options.conventions = in.conventions();
        options.kl_reduction = in.conventions().kl_reduction;
        Forward<P> model(parameters, config, options, out);
        const ForwardResult<P> result = model.run(tokens, targets);
        const Parameters<P> gradients = model.gradients(result.loss);

        out.show("language_loss", result.language, DType::float32);
        Tensor<P> kl({config.layers});
        for (Index l = 0; l < config.layers; ++l) {
            const Tensor<P>& of_layer = result.layers[static_cast<std::size_t>(l)].kl_loss;
            if (of_layer.size() > 0) kl[l] = of_layer[0];
        }
        out.show("kl_loss", kl, DType::float32);
        // What does not learn, and an expert that nobody visited, has a gradient of exactly zero.
        std::map<std::string, Tensor<P>> into;
        for (const auto& [name, stack] : stacks) into.emplace(name, Tensor<P>(stack.shape()));
        for (const WeightPlace& place : places)
            if (const auto g = gradients.find(place.parameter); g != gradients.end())
                copy_to_stack(g->second, place, into.at(place.tensor));
        if (const auto g = gradients.find("model.embed_tokens.weight"); g != gradients.end())
            into.at("embedding") = g->second;
        for (const auto& [name, axes] : stacked_weights())
            out.show(std::string("d") + name, into.at(name), DType::float32);
    }
};

}  // namespace

std::vector<Op> training_step_ops() {
    std::vector<std::string> outputs{"language_loss", "kl_loss"};
    for (const auto& [name, axes] : stacked_weights()) outputs.push_back(std::string("d") + name);
    return {make_op<TrainingStep>("training_step", std::move(outputs), true)};
}

}  // namespace dsa
