// moe_gate, moe.
#include "reference/ops/registry.h"
#include "reference/ops/weights.h"

namespace dsa {
namespace {

struct MoeGate {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "D"});
        const MoeWeights w = gate_weights(in);
        Gate<P> gate = moe_gate(x, w.W_g, w.bias, w.shape, in.conventions());
        // A stage: what the judgement of the choice rests on.
        out.show("scores", gate.scores, DType::float32);
        gate.experts = out.pass("experts", std::move(gate.experts));
        out.show("expert_weights", expert_weights(gate, w.shape, in.conventions()), DType::float32);
    }
};

struct Moe {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "D"});
        out.show("y", moe_layer(x, moe_weights(in), in.conventions(), out), DType::bfloat16);
    }
};

}  // namespace

std::vector<Op> moe_ops() {
    return {make_op<MoeGate>("moe_gate", {"experts", "expert_weights"}), make_op<Moe>("moe", {"y"})};
}

}  // namespace dsa
