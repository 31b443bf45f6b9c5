#include "optimized/training_step/op.h"

#include "optimized/indexer_project/op.h"
#include "optimized/moe_gate/op.h"
#include "optimized/support/arguments.h"
#include "optimized/support/ladder.h"
#include "optimized/training_step/layer.h"

namespace dsa {
namespace {

const Ladder<TrainingStep> ladder{
    "training_step",
    {{"every part at its level 1", training_step_level_1, nullptr, training_step_level_1_workspace},
     {"every part at its highest", training_step_level_2, nullptr, training_step_level_2_workspace}}};

// A weight and its gradient have one shape.
class Weights {
   public:
    explicit Weights(Arguments& tensors) : tensors_(tensors) {}

    template <class Number>
    void read(const std::string& name, const dsa_tensor& in, const dsa_tensor& out,
              std::initializer_list<const char*> axes, const Number*& weight, float*& gradient) {
        weight = tensors_.in<Number>(name.c_str(), in, axes);
        gradient = tensors_.out<float>(("d" + name).c_str(), out, axes);
    }
    // Of float32 or bf16 numbers. -> whether they are float32
    bool read_either(const std::string& name, const dsa_tensor& in, const dsa_tensor& out,
                     std::initializer_list<const char*> axes, const void*& weight, float*& gradient) {
        const bool is_float32 = in.dtype == dsa_float32;
        if (is_float32)
            weight = tensors_.in<float>(name.c_str(), in, axes);
        else
            weight = tensors_.in<bf16>(name.c_str(), in, axes);
        gradient = tensors_.out<float>(("d" + name).c_str(), out, axes);
        return is_float32;
    }

   private:
    Arguments& tensors_;
};

void read_attention(Arguments& tensors, const dsa_training_step_args& args, TrainingStep& call) {
    Weights weights(tensors);
    LayerInputs& w = call.layers;
    LayerGradients& d = call.gradients;
    TrainingSizes& n = call.sizes;
    weights.read("attention_norm", args.attention_norm, args.dattention_norm, {"L", "D"}, w.attention_norm,
                 d.attention_norm);
    weights.read("W_dq", args.W_dq, args.dW_dq, {"L", "D", "R_q"}, w.W_dq, d.W_dq);
    weights.read("q_norm", args.q_norm, args.dq_norm, {"L", "R_q"}, w.q_norm, d.q_norm);
    weights.read("W_uq", args.W_uq, args.dW_uq, {"L", "R_q", "H", "d_q"}, w.W_uq, d.W_uq);
    weights.read("W_dkv", args.W_dkv, args.dW_dkv, {"L", "D", "d"}, w.W_dkv, d.W_dkv);
    weights.read("kv_norm", args.kv_norm, args.dkv_norm, {"L", "R_kv"}, w.kv_norm, d.kv_norm);
    weights.read("W_uk", args.W_uk, args.dW_uk, {"L", "R_kv", "H", "d_nope"}, w.W_uk, d.W_uk);
    n.R_q = tensors.size("R_q");
    n.H = tensors.size("H");
    n.R_kv = tensors.size("R_kv");
    n.d_nope = tensors.size("d_nope");
    n.d_rope = tensors.size("d") - n.R_kv;
    require(
        n.d_rope > 0 && n.d_rope % 2 == 0 && n.d_nope > 0 && n.d_nope + n.d_rope == tensors.size("d_q"),
        "training_step: W_dkv must have R_kv + d_rope columns, d_rope even, and W_uq d_nope + d_rope a head; they "
        "have ",
        tensors.size("d"), " and ", tensors.size("d_q"));
    weights.read("W_uv", args.W_uv, args.dW_uv, {"L", "R_kv", "H", "d_v"}, w.W_uv, d.W_uv);
    weights.read("W_o", args.W_o, args.dW_o, {"L", "H", "d_v", "D"}, w.W_o, d.W_o);
    n.d_v = tensors.size("d_v");
}

void read_indexer(Arguments& tensors, const dsa_training_step_args& args, TrainingStep& call) {
    Weights weights(tensors);
    LayerInputs& w = call.layers;
    LayerGradients& d = call.gradients;
    TrainingSizes& n = call.sizes;
    weights.read("W_qI", args.W_qI, args.dW_qI, {"L", "R_q", "H_I", "D_I"}, w.W_qI, d.W_qI);
    weights.read("W_kI", args.W_kI, args.dW_kI, {"L", "D", "D_I"}, w.W_kI, d.W_kI);
    weights.read("k_norm", args.k_norm, args.dk_norm, {"L", "D_I"}, w.k_norm, d.k_norm);
    weights.read("k_bias", args.k_bias, args.dk_bias, {"L", "D_I"}, w.k_bias, d.k_bias);
    call.W_w_is_float32 = weights.read_either("W_w", args.W_w, args.dW_w, {"L", "D", "H_I"}, w.W_w, d.W_w);
    n.H_I = tensors.size("H_I");
    n.D_I = tensors.size("D_I");
    require(n.H_I > 0 && n.D_I >= n.d_rope && n.D_I <= widest_indexer_vector,
            "training_step: the indexer needs a head and D_I from d_rope = ", n.d_rope, " to ", widest_indexer_vector,
            "; H_I is ", n.H_I, ", D_I ", n.D_I);
    require(!call.conventions.hadamard || (n.D_I & (n.D_I - 1)) == 0,
            "the Hadamard transform needs a power of two; D_I is ", n.D_I);
}

void read_mixture(const Case& about, Arguments& tensors, const dsa_training_step_args& args, TrainingStep& call) {
    Weights weights(tensors);
    LayerInputs& w = call.layers;
    LayerGradients& d = call.gradients;
    TrainingSizes& n = call.sizes;
    weights.read("ffn_norm", args.ffn_norm, args.dffn_norm, {"L", "D"}, w.ffn_norm, d.ffn_norm);
    call.W_g_is_bf16 = !weights.read_either("W_g", args.W_g, args.dW_g, {"L", "D", "E"}, w.W_g, d.W_g);
    if (call.conventions.gate_bias) call.bias = tensors.in<float>("bias", args.bias, {"L", "E"});
    weights.read("W_gate", args.W_gate, args.dW_gate, {"L", "E", "D", "F"}, w.W_gate, d.W_gate);
    weights.read("W_up", args.W_up, args.dW_up, {"L", "E", "D", "F"}, w.W_up, d.W_up);
    weights.read("W_down", args.W_down, args.dW_down, {"L", "E", "F", "D"}, w.W_down, d.W_down);
    weights.read("shared_W_gate", args.shared_W_gate, args.dshared_W_gate, {"L", "D", "F_s"}, w.shared_W_gate,
                 d.shared_W_gate);
    weights.read("shared_W_up", args.shared_W_up, args.dshared_W_up, {"L", "D", "F_s"}, w.shared_W_up, d.shared_W_up);
    weights.read("shared_W_down", args.shared_W_down, args.dshared_W_down, {"L", "F_s", "D"}, w.shared_W_down,
                 d.shared_W_down);
    n.E = tensors.size("E");
    n.F = tensors.size("F");
    n.F_s = tensors.size("F_s");
    require(n.F > 0 && n.F_s > 0 && n.F_s % n.F == 0,
            "training_step: the shared expert must be a multiple of an "
            "expert's width, ",
            n.F, "; it is ", n.F_s);
    const auto whole = [&](const char* name, std::int64_t field, std::int64_t otherwise) {
        const std::int64_t value = about.whole(name, field, otherwise);
        require(value > 0 && value <= n.E, "the parameter ", name, " must be from 1 to the ", n.E, " experts; it is ",
                value);
        return static_cast<int>(value);
    };
    call.groups = whole("groups", args.groups, 8);
    call.kept_groups = whole("kept_groups", args.kept_groups, 4);
    call.active = whole("active", args.active, 8);
    // Without case_json a struct's 0 says "no"; with it, what is not said has its default.
    call.normalise = about.flag("normalise", args.normalise, args.case_json != nullptr);
    call.route_scale = static_cast<float>(about.number("route_scale", args.route_scale, 2.5));
    require_gate(gate_of(call));
    require(n.T * call.active <= INT32_MAX,
            "training_step counts visits in 32 bits: T x active must be below 2^31; it "
            "is ",
            n.T * call.active);
}

TrainingStage stage_of(const Case& about) {
    const std::string stage = about.text("stage", "sparse");
    if (stage == "dense") return TrainingStage::dense;
    if (stage == "warmup") return TrainingStage::warmup;
    require(stage == "sparse", "the parameter stage must be dense, warmup or sparse; it is \"", stage, "\"");
    return TrainingStage::sparse;
}

TrainingStep read(const dsa_training_step_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    Weights weights(tensors);
    TrainingStep call{};
    TrainingSizes& n = call.sizes;
    call.conventions = about.conventions();
    call.stage = stage_of(about);
    call.tokens = tensors.in<std::int32_t>("tokens", args.tokens, {"T"});
    call.targets = tensors.in<std::int32_t>("targets", args.targets, {"T"});
    weights.read("embedding", args.embedding, args.dembedding, {"V", "D"}, call.embedding, call.dembedding);
    n.T = tensors.size("T");
    n.V = tensors.size("V");
    n.D = tensors.size("D");
    read_attention(tensors, args, call);
    n.L = tensors.size("L");
    require(n.L > 0 && n.V > 0 && n.D > 0 && n.R_q > 0 && n.H > 0 && n.R_kv > 0 && n.d_v > 0,
            "training_step needs a layer, a word and widths of at least 1; L is ", n.L, ", V ", n.V, ", D ", n.D,
            ", R_q ", n.R_q, ", H ", n.H, ", R_kv ", n.R_kv, ", d_v ", n.d_v);
    read_indexer(tensors, args, call);
    read_mixture(about, tensors, args, call);
    weights.read("final_norm", args.final_norm, args.dfinal_norm, {"D"}, call.final_norm, call.dfinal_norm);
    weights.read("head", args.head, args.dhead, {"D", "V"}, call.head, call.dhead);
    call.language_loss = tensors.out<float>("language_loss", args.language_loss, {"1"});
    call.kl_loss = tensors.out<float>("kl_loss", args.kl_loss, {"L"});
    n.topk = about.whole("topk", args.topk, 0);
    require(n.topk > 0 || call.stage != TrainingStage::sparse,
            "training_step needs the parameter topk: how many tokens a query may select");
    require(n.T * n.T <= INT64_MAX / 8 && n.T < INT32_MAX, "training_step counts positions in 32 bits; T is ", n.T);
    call.simulates_fp8 = about.flag("simulate_fp8", args.simulate_fp8, false);
    call.rope = rope_table(about.rope(), n.d_rope);
    call.eps = static_cast<float>(about.number("eps", args.eps, 1e-6));
    call.softmax_scale = static_cast<float>(about.softmax_scale(0.0, n.d_nope, n.d_rope));
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_training_step(const dsa_training_step_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_training_step_workspace(const dsa_training_step_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
