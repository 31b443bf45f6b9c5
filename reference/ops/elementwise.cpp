// rms_norm, layer_norm, rope, hadamard, act_quant: what happens to one vector at a time.
#include "reference/attention/hadamard.h"
#include "reference/attention/norm.h"
#include "reference/attention/quantize.h"
#include "reference/attention/rope.h"
#include "reference/ops/registry.h"

namespace dsa {
namespace {

struct RmsNorm {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "D"});
        out.show("y", rms_norm(x, in.vector("weight", {"D"}), in.number("eps", norm_epsilon)), DType::bfloat16);
    }
};

struct LayerNorm {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "D"});
        const auto y =
            layer_norm(x, in.vector("weight", {"D"}), in.vector("bias", {"D"}), in.number("eps", norm_epsilon));
        out.show("y", y, DType::bfloat16);
    }
};

struct RopeOp {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "N", "d_rope"});
        const auto layout = [&](const std::string& name, const std::string& otherwise) {
            return in.choice(name, {"interleaved", "half_split"}, otherwise);
        };
        const std::string pairs = layout("layout", "interleaved");
        const std::string left_as = layout("output_layout", pairs);
        const auto parsed = [](const std::string& l) {
            return l == "interleaved" ? RopeLayout::interleaved : RopeLayout::half_split;
        };
        out.show("y", rope(x, in.integers("positions", {"T"}), in.rope(), parsed(pairs), parsed(left_as)),
                 DType::bfloat16);
    }
};

struct Hadamard {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        out.show("y", hadamard(in.tensor<P>("x", {"T", "N", "D_I"})), DType::bfloat16);
    }
};

struct ActQuant {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "N"});
        const Index block = in.whole("block", quantization_block);
        const auto q = quantize(x, in.conventions().quantizer, in.conventions().scale_format, block);
        const DType dtype = in.conventions().quantizer == Quantizer::none ? DType::bfloat16 : DType::float8_e4m3;
        out.show("q", q.values, dtype, "scale");
        out.pass_scale("scale", q.scale);
    }
};

}  // namespace

std::vector<Op> elementwise_ops() {
    return {make_op<RmsNorm>("rms_norm", {"y"}), make_op<LayerNorm>("layer_norm", {"y"}),
            make_op<RopeOp>("rope", {"y"}), make_op<Hadamard>("hadamard", {"y"}),
            make_op<ActQuant>("act_quant", {"q", "scale"})};
}

}  // namespace dsa
