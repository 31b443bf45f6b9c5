// indexer_logits, indexer_logits_paged, top_k, indexer_top_k: from quantised queries and keys to positions.
#include "reference/attention/indexer.h"

#include "reference/attention/kv_cache.h"
#include "reference/attention/top_k.h"
#include "reference/ops/registry.h"

namespace dsa {
namespace {

struct Range {
    Array<std::int32_t> start;  // [T]
    Array<std::int32_t> end;    // [T]

    Range(const OpInputs& in, Index S)
        : start(in.integers("start", {"T"}, 0, S)), end(in.integers("end", {"T"}, 0, S)) {}
};

template <class P>
Tensor<P> contiguous_logits(const OpInputs& in, Range& range) {
    const auto q = in.tensor<P>("q", {"T", "H_I", "D_I"});
    const auto k = in.tensor<P>("k", {"S", "D_I"});
    const auto k_scale = in.tensor<P>("k_scale", {"S"});
    const auto weights = in.tensor<P>("weights", {"T", "H_I"});
    return indexer_logits(q, k, k_scale, weights, range.start, range.end, in.conventions());
}

// [S] read off k, which both ops have; bound before the range is checked against it.
Index context(const OpInputs& in, const std::string& tensor) {
    return in.description()["tensors"]
        .value(tensor, nlohmann::json::object())
        .value("shape", std::vector<Index>{0})
        .front();
}

struct IndexerLogits {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        Range range(in, context(in, "k"));
        out.show("logits", contiguous_logits<P>(in, range), DType::float32);
    }
};

// Query i of a request's s_q stands at context_len - s_q + i and sees every position up to its own.
struct IndexerLogitsPaged {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto q = in.tensor<P>("q", {"B", "s_q", "H_I", "D_I"});
        const Index B = q.dim(0);
        const Index s_q = q.dim(1);
        const Index H_I = q.dim(2);
        const KeyPageLayout layout{q.dim(3)};
        const auto pages = in.bytes("k_pages", {"pages", layout.bytes()});
        const auto block_table = in.integers("block_table", {"B", "P"});
        const Index S = block_table.dim(1) * page_tokens;
        const auto context_lens = in.integers("context_lens", {"B"}, 0, S);
        const auto weights = in.tensor<P>("weights", {B * s_q, "H_I"});
        using Real = typename P::Real;
        Tensor<P> logits({B * s_q, S}, Real(-std::numeric_limits<double>::infinity()));
        for (Index b = 0; b < B; ++b) {
            const Index length = context_lens[b];
            Tensor<P> k({length, layout.D_I});
            Tensor<P> k_scale({length});
            for (Index s = 0; s < length; ++s) {
                const Index page = block_table(b, s / page_tokens);
                require(page >= 0 && page < pages.dim(0), "block_table[", b, ", ", s / page_tokens,
                        "] must name a page from 0 to ", pages.dim(0) - 1, ": request ", b, " needs it for its ",
                        length, " tokens; it is ", page);
                k_scale[s] = read_key<P>(pages, layout, page, s % page_tokens, k.row(s));
            }
            Tensor<P> q_of_request({s_q, H_I, layout.D_I});
            Tensor<P> weights_of_request({s_q, H_I});
            Array<std::int32_t> start({s_q}, 0);
            Array<std::int32_t> end({s_q}, 0);
            for (Index i = 0; i < s_q; ++i) {
                q_of_request.slice(i) = q.slice(b * s_q + i);
                weights_of_request.row(i) = weights.row(b * s_q + i);
                end[i] = static_cast<std::int32_t>(std::max<Index>(0, length - s_q + i + 1));
            }
            const auto own =
                indexer_logits(q_of_request, k, k_scale, weights_of_request, start, end, in.conventions());
            for (Index i = 0; i < s_q; ++i) logits.row(b * s_q + i).head(length) = own.row(i);
        }
        out.show("logits", logits, DType::float32);
    }
};

struct TopK {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        const auto logits = in.tensor<P>("logits", {"T", "S"}, Numbers::any);
        const Range range(in, in.size("S"));
        out.pass("indices", top_k(logits, range.start, range.end, in.whole("topk"), in.conventions().nan_scores));
    }
};

struct IndexerTopK {
    template <class P>
    static void run(const OpInputs& in, const Trace& out) {
        Range range(in, context(in, "k"));
        const auto logits = contiguous_logits<P>(in, range);
        out.show("logits", logits, DType::float32);  // a stage: what the judgement of the selection rests on
        out.pass("indices", top_k(logits, range.start, range.end, in.whole("topk"), in.conventions().nan_scores));
    }
};

}  // namespace

std::vector<Op> indexer_ops() {
    return {make_op<IndexerLogits>("indexer_logits", {"logits"}),
            make_op<IndexerLogitsPaged>("indexer_logits_paged", {"logits"}), make_op<TopK>("top_k", {"indices"}),
            make_op<IndexerTopK>("indexer_top_k", {"indices"})};
}

}  // namespace dsa
