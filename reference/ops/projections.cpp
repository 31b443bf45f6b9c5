// mla_project, indexer_project: from hidden states to what attention and indexer compare.
#include "reference/ops/registry.h"
#include "reference/ops/weights.h"

namespace dsa {
namespace {

struct MlaProject {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "D"});
        const MlaWeights w = mla_projection_weights(in);
        const auto m = mla_project(x, in.integers("positions", {"T"}), w, in.rope(), in.conventions(),
                                   in.number("eps", norm_epsilon));
        out.show("c_q", m.c_q, DType::bfloat16);
        out.show("q_nope", m.q_nope, DType::bfloat16);
        out.show("q_rope", m.q_rope, DType::bfloat16);
        out.show("c_kv", m.c_kv, DType::bfloat16);
        out.show("k_rope", m.k_rope, DType::bfloat16);
    }
};

struct IndexerProject {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto x = in.tensor<P>("x", {"T", "D"});
        const auto c_q = in.tensor<P>("c_q", {"T", "R_q"});
        const IndexerWeights w = indexer_weights(in);
        const Index d_rope = in.whole("d_rope", 64);
        require(d_rope <= w.D_I(), "d_rope must be at most D_I = ", w.D_I(), "; it is ", d_rope);
        const auto projection = indexer_projection(x, c_q, in.integers("positions", {"T"}), w, d_rope, in.rope(),
                                                   in.conventions(), in.number("eps", norm_epsilon));
        const auto inputs = indexer_quantize(projection, in.conventions());
        const DType dtype = in.conventions().quantizer == Quantizer::none ? DType::bfloat16 : DType::float8_e4m3;
        out.show("unquantised_q", projection.q, DType::bfloat16);
        out.show("unquantised_k", projection.k, DType::bfloat16);
        out.show("q", inputs.q, dtype, "q_scale");
        out.pass_scale("q_scale", inputs.q_scale);
        out.show("k", inputs.k, dtype, "k_scale");
        out.pass_scale("k_scale", inputs.k_scale);
        out.show("weights", inputs.weights, DType::float32, "1/q_scale");
    }
};

}  // namespace

std::vector<Op> projection_ops() {
    return {make_op<MlaProject>("mla_project", {"c_q", "q_nope", "q_rope", "c_kv", "k_rope"}),
            make_op<IndexerProject>("indexer_project", {"q", "k", "k_scale", "weights"})};
}

}  // namespace dsa
