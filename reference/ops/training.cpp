// attention_target, indexer_kl_loss, sparse_attention_backward.
#include "reference/ops/registry.h"
#include "reference/training/attention_target.h"
#include "reference/training/indexer_kl_loss.h"
#include "reference/training/sparse_attention_backward.h"

namespace dsa {
namespace {

double scale_of(const OpInputs& in) { return in.number("scale", softmax_scale(RopeParameters{}, 128, 64)); }

// The target of `q` and `kv`, over all causal positions or over `indices`.
template <class P>
Tensor<P> target_of(const OpInputs& in, const Tensor<P>& q, const Tensor<P>& kv) {
    require(kv.dim(0) >= q.dim(0), "the T = ", q.dim(0),
            " queries are the last of the context: S must be at least T; it is ", kv.dim(0));
    if (!in.has("indices")) return attention_target(q, kv, scale_of(in));
    return attention_target(q, kv, in.integers("indices", {"T", "k"}), scale_of(in),
                            in.conventions().sparse_kl_target);
}

struct AttentionTarget {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto q = in.tensor<P>("q", {"T", "H", "d"});
        out.show("p", target_of(in, q, in.tensor<P>("kv", {"S", "d"})), DType::float32);
    }
};

struct IndexerKlLoss {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto q = in.tensor<P>("q", {"T", "H_I", "D_I"});
        const auto k = in.tensor<P>("k", {"S", "D_I"});
        const auto weights = in.tensor<P>("weights", {"T", "H_I"});
        const Index S = k.dim(0);
        require(S >= q.dim(0), "the T = ", q.dim(0),
                " queries are the last of the context: S must be at least T; it is ", S);
        Tensor<P> target;
        if (in.has("p"))
            target = in.tensor<P>("p", {"T", in.has("indices") ? "k" : "S"});
        else
            target = target_of(in, in.tensor<P>("q_mla", {"T", "H", "d"}), in.tensor<P>("kv", {"S", "d"}));
        out.show("p", target, DType::float32);
        const auto candidates = in.has("indices") ? selected_candidates(target, in.integers("indices", {"T", "k"}), S)
                                                  : causal_candidates(target);
        const auto result = indexer_kl_loss(q, k, weights, candidates, in.conventions());
        out.show("loss", result.loss, DType::float32);
        out.show("dq", result.dq, DType::float32);
        out.show("dk", result.dk, DType::float32);
        out.show("dweights", result.dweights, DType::float32);
    }
};

struct SparseAttentionBackward {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto q = in.tensor<P>("q", {"T", "H", "d"});
        const auto kv = in.tensor<P>("kv", {"S", "d"});
        const auto indices = in.integers("indices", {"T", "k"});
        const auto forward = in.tensor<P>("out", {"T", "H", "d_v"});
        const auto lse = in.tensor<P>("lse", {"T", "H"}, Numbers::any);
        require(in.size("d_v") <= in.size("d"), "out must have at most the ", in.size("d"), " columns of kv; it has ",
                in.size("d_v"));
        const auto dout = in.tensor<P>("dout", {"T", "H", "d_v"});
        const auto gradient = sparse_attention_backward(q, kv, indices, forward, lse, dout, scale_of(in));
        out.show("dq", gradient.dq, DType::bfloat16);
        out.show("dkv", gradient.dkv, DType::float32);
    }
};

}  // namespace

std::vector<Op> training_ops() {
    return {make_op<AttentionTarget>("attention_target", {"p"}),
            make_op<IndexerKlLoss>("indexer_kl_loss", {"loss", "dq", "dk", "dweights"}),
            make_op<SparseAttentionBackward>("sparse_attention_backward", {"dq", "dkv"})};
}

}  // namespace dsa
