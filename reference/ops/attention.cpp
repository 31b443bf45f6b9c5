// sparse_prefill, sparse_decode, dense_attention.
#include "reference/attention/dense_attention.h"
#include "reference/attention/kv_cache.h"
#include "reference/attention/sparse_attention.h"
#include "reference/ops/registry.h"

namespace dsa {
namespace {

// Softmax's scale: given, or that of V3.2's sizes.
double scale_of(const OpInputs& in) { return in.number("scale", softmax_scale(RopeParameters{}, 128, 64)); }

template <class P>
Sink<P> sink_of(const OpInputs& in) {
    return in.has("sink") ? in.tensor<P>("sink", {"H"}) : Sink<P>{};
}

template <class P>
void show(const AttentionOutput<P>& result, const OpInputs& in, const Trace& out, Shape leading,
          bool with_max_logit) {
    const auto shaped = [&](Tensor<P> x, bool keeps_last) {
        Shape shape = leading;
        shape.push_back(in.size("H"));
        if (keeps_last) shape.push_back(x.cols());
        x.reshape(shape);
        return x;
    };
    out.show("out", shaped(result.out, true), DType::bfloat16);
    out.show("lse", shaped(lse_by_convention(result.lse, in.conventions()), false), DType::float32);
    if (with_max_logit) out.show("max_logit", shaped(result.max_logit, false), DType::float32);
}

struct SparsePrefill {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto q = in.tensor<P>("q", {"T", "H", "d"});
        const auto kv = in.tensor<P>("kv", {"S", "d"});
        const Index d_v = in.whole("d_v", std::min<Index>(512, in.size("d")));
        require(d_v <= in.size("d"), "d_v must be at most the ", in.size("d"), " columns of kv; it is ", d_v);
        const auto indices = in.integers("indices", {"T", "k"});
        show(sparse_attention(q, kv, indices, scale_of(in), d_v, sink_of<P>(in)), in, out, {in.size("T")}, true);
    }
};

struct SparseDecode {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        auto q = in.tensor<P>("q", {"B", "s_q", "H", "R_kv + d_rope"});
        const Index d = in.size("R_kv + d_rope");
        const Index R_kv = in.whole("R_kv", 512);
        require(R_kv < d && R_kv % block_for(R_kv) == 0, "R_kv must be below the ", d,
                " columns of q and a multiple of 128; it is ", R_kv);
        const KvTokenLayout layout{R_kv, d - R_kv};
        const auto pages = in.bytes("kv_pages", {"pages", page_tokens, layout.bytes()});
        auto indices = in.integers("indices", {"B", "s_q", "k"});
        const Index B = in.size("B");
        const Index s_q = in.size("s_q");
        q.reshape({B * s_q, in.size("H"), d});
        indices.reshape({B * s_q, in.size("k")});
        const auto gather = [&](const std::vector<Index>& slots) {
            Tensor<P> rows({static_cast<Index>(slots.size()), d});
            for (std::size_t i = 0; i < slots.size(); ++i)
                read_kv_token<P>(pages, layout, slots[i], rows.row(static_cast<Index>(i)));
            return Matrix<typename P::Real>(rows.matrix());
        };
        show(
            sparse_attention_over(q, pages.dim(0) * page_tokens, gather, indices, scale_of(in), R_kv, sink_of<P>(in)),
            in, out, {B, s_q}, false);
    }
};

struct DenseAttention {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto q = in.tensor<P>("q", {"T", "H", "d"});
        DenseRange range;
        range.causal = in.flag("causal", true);
        const std::string mode = in.choice("mode", {"mqa", "mha"}, "mqa");
        if (mode == "mqa") {
            const auto kv = in.tensor<P>("kv", {"S", "d"});
            if (in.has("start")) range.start = in.integers("start", {"T"}, 0, in.size("S"));
            check_sizes(in, range);
            const Index d_v = in.whole("d_v", std::min<Index>(512, in.size("d")));
            require(d_v <= in.size("d"), "d_v must be at most the ", in.size("d"), " columns of kv; it is ", d_v);
            show(dense_attention_mqa(q, kv, scale_of(in), d_v, range, sink_of<P>(in)), in, out, {in.size("T")},
                 false);
        } else {
            const auto k = in.tensor<P>("k", {"S", "H", "d"});
            const auto v = in.tensor<P>("v", {"S", "H", "d_v"});
            if (in.has("start")) range.start = in.integers("start", {"T"}, 0, in.size("S"));
            check_sizes(in, range);
            show(dense_attention_mha(q, k, v, scale_of(in), range, sink_of<P>(in)), in, out, {in.size("T")}, false);
        }
    }
    static void check_sizes(const OpInputs& in, const DenseRange& range) {
        require(!range.causal || in.size("S") >= in.size("T"),
                "causal attention needs S >= T: the T = ", in.size("T"),
                " queries are the last of the context; S is ", in.size("S"));
    }
};

}  // namespace

std::vector<Op> attention_ops() {
    return {make_op<SparsePrefill>("sparse_prefill", {"out", "lse", "max_logit"}),
            make_op<SparseDecode>("sparse_decode", {"out", "lse"}),
            make_op<DenseAttention>("dense_attention", {"out", "lse"})};
}

}  // namespace dsa
