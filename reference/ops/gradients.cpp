// rms_norm_backward, layer_norm_backward, cross_entropy, dense_mqa_backward, dense_mha_backward, moe_backward: the
// gradients that training needs, each as an op. docs/14-gradients.md.
#include "reference/ops/learning_weights.h"
#include "reference/ops/registry.h"
#include "reference/ops/weights.h"
#include "reference/training/dense_attention_backward.h"
#include "reference/training/experts.h"

namespace dsa {
namespace {

// A vector or a matrix [1, D] that learns.
template <class P>
Var<P> parameter(Tape<P>& tape, const OpInputs& in, const std::string& name, const Axes& axes) {
    return tape.leaf(in.tensor<P>(name, axes), true);
}

struct RmsNormBackward {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        Tape<P> tape;
        const auto x = parameter(tape, in, "x", {"T", "D"});
        const auto weight = parameter(tape, in, "weight", {"D"});
        const auto y = rms_norm(tape, x, weight, in.number("eps", norm_epsilon));
        tape.backward(y, in.tensor<P>("dy", {"T", "D"}));
        out.show("dx", stored_as_bf16(x->gradient()), DType::bfloat16);
        out.show("dweight", weight->gradient(), DType::float32);
    }
};

struct LayerNormBackward {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        Tape<P> tape;
        const auto x = parameter(tape, in, "x", {"T", "D"});
        const auto weight = parameter(tape, in, "weight", {"D"});
        const auto bias = parameter(tape, in, "bias", {"D"});
        const auto y = layer_norm(tape, x, weight, bias, in.number("eps", norm_epsilon));
        tape.backward(y, in.tensor<P>("dy", {"T", "D"}));
        out.show("dx", stored_as_bf16(x->gradient()), DType::bfloat16);
        out.show("dweight", weight->gradient(), DType::float32);
        out.show("dbias", bias->gradient(), DType::float32);
    }
};

struct CrossEntropy {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        Tape<P> tape;
        const auto logits = parameter(tape, in, "logits", {"T", "V"});
        const auto targets = in.integers("targets", {"T"}, -1, in.size("V") - 1);
        const auto loss = cross_entropy(tape, logits, targets);
        tape.backward(loss);
        out.show("loss", loss->value(), DType::float32);
        out.show("dlogits", logits->gradient(), DType::float32);
    }
};

double scale_of(const OpInputs& in) { return in.number("scale", softmax_scale(RopeParameters{}, 128, 64)); }

DenseRange range_of(const OpInputs& in) {
    DenseRange range;
    range.causal = in.flag("causal", true);
    if (in.has("start")) range.start = in.integers("start", {"T"}, 0, in.size("S"));
    require(!range.causal || in.size("S") >= in.size("T"), "causal attention needs S >= T: the T = ", in.size("T"),
            " queries are the last of the context; S is ", in.size("S"));
    return range;
}

struct DenseMqaBackward {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto q = in.tensor<P>("q", {"T", "H", "d"});
        const auto kv = in.tensor<P>("kv", {"S", "d"});
        const auto forward = in.tensor<P>("out", {"T", "H", "d_v"});
        require(in.size("d_v") <= in.size("d"), "out must have at most the ", in.size("d"), " columns of kv; it has ",
                in.size("d_v"));
        const auto lse = in.tensor<P>("lse", {"T", "H"}, Numbers::any);
        const auto dout = in.tensor<P>("dout", {"T", "H", "d_v"});
        const auto gradient = dense_mqa_backward(q, kv, forward, lse, dout, scale_of(in), range_of(in));
        out.show("dq", gradient.dq, DType::bfloat16);
        out.show("dkv", gradient.dkv, DType::float32);
    }
};

struct DenseMhaBackward {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto q = in.tensor<P>("q", {"T", "H", "d"});
        const auto k = in.tensor<P>("k", {"S", "H", "d"});
        const auto v = in.tensor<P>("v", {"S", "H", "d_v"});
        const auto forward = in.tensor<P>("out", {"T", "H", "d_v"});
        const auto lse = in.tensor<P>("lse", {"T", "H"}, Numbers::any);
        const auto dout = in.tensor<P>("dout", {"T", "H", "d_v"});
        const auto gradient = dense_mha_backward(q, k, v, forward, lse, dout, scale_of(in), range_of(in));
        out.show("dq", gradient.dq, DType::bfloat16);
        out.show("dk", gradient.dk, DType::bfloat16);
        out.show("dv", gradient.dv, DType::bfloat16);
    }
};

struct MoeBackward {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        Tape<P> tape(out);
        const auto x = parameter(tape, in, "x", {"T", "D"});
        const std::vector<std::pair<const char*, Axes>> weights{{"W_g", {"D", "E"}},
                                                                {"W_gate", {"E", "D", "F"}},
                                                                {"W_up", {"E", "D", "F"}},
                                                                {"W_down", {"E", "F", "D"}},
                                                                {"shared_W_gate", {"D", "F_s"}},
                                                                {"shared_W_up", {"D", "F_s"}},
                                                                {"shared_W_down", {"F_s", "D"}}};
        std::map<std::string, Tensor<P>> stacks;
        for (const auto& [name, axes] : weights) stacks.emplace(name, in.tensor<P>(name, axes));
        const Array<float> bias = in.conventions().gate_bias ? in.vector("bias", {"E"}) : Array<float>{};
        const auto places = mixture_places(0, "", in.size("D"), in.size("E"), in.size("F"), in.size("F_s"));
        std::map<std::string, Var<P>> leaves;
        for (const WeightPlace& place : places) {
            Tensor<P> matrix({place.N, place.K});
            copy_to_parameter(stacks.at(place.tensor), place, matrix);
            leaves.emplace(place.parameter, tape.leaf(std::move(matrix), true));
        }
        const auto y = mixture_of_experts(tape, "", x, bias, true, gate_shape(in), in.conventions(),
                                          [&leaves](const std::string& name) { return leaves.at(name); });
        tape.backward(y, in.tensor<P>("dy", {"T", "D"}));
        out.show("dx", stored_as_bf16(x->gradient()), DType::bfloat16);
        for (const auto& [name, axes] : weights) {
            Tensor<P> gradient(stacks.at(name).shape());
            for (const WeightPlace& place : places)
                if (place.tensor == name) copy_to_stack(leaves.at(place.parameter)->gradient(), place, gradient);
            out.show(std::string("d") + name, gradient, DType::float32);
        }
    }
};

}  // namespace

std::vector<Op> gradient_ops() {
    return {make_op<RmsNormBackward>("rms_norm_backward", {"dx", "dweight"}),
            make_op<LayerNormBackward>("layer_norm_backward", {"dx", "dweight", "dbias"}),
            make_op<CrossEntropy>("cross_entropy", {"loss", "dlogits"}),
            make_op<DenseMqaBackward>("dense_mqa_backward", {"dq", "dkv"}),
            make_op<DenseMhaBackward>("dense_mha_backward", {"dq", "dk", "dv"}),
            make_op<MoeBackward>("moe_backward", {"dx", "dW_g", "dW_gate", "dW_up", "dW_down", "dshared_W_gate",
                                                  "dshared_W_up", "dshared_W_down"})};
}

}  // namespace dsa
