// DeepSeek Sparse Attention from hidden states to hidden states: MLA's projections, the lightning indexer,
// the selection, and attention over the selected tokens. DeepSeek-V3.2-Exp report, section 2.
#pragma once

#include "reference/attention/indexer.h"
#include "reference/attention/mla.h"
#include "reference/attention/sparse_attention.h"
#include "reference/attention/top_k.h"
#include "reference/trace.h"

namespace dsa {

struct AttentionWeights {
    MlaWeights mla;
    IndexerWeights indexer;
};

struct AttentionSettings {
    Index topk = 2048;
    double scale = 1.0;
    double norm_eps = norm_epsilon;
    RopeParameters rope;
    Conventions conventions;
};

// What a layer remembers of the tokens before.
template <class P>
struct LayerCache {
    Tensor<P> kv;       // [S, R_kv + d_rope]
    Tensor<P> k;        // [S, D_I], e4m3 in Deployed
    Tensor<P> k_scale;  // [S]
};

// Rows of `more` after those of `x`; an empty x has none. [S, ...], [T, ...] -> [S + T, ...]
template <class P>
void append_rows(Tensor<P>& x, const Tensor<P>& more) {
    if (x.shape().empty()) {
        x = more;
        return;
    }
    Shape shape = x.shape();
    shape[0] += more.dim(0);
    Tensor<P> both(shape);
    std::copy(x.data(), x.data() + x.size(), both.data());
    std::copy(more.data(), more.data() + more.size(), both.data() + x.size());
    x = std::move(both);
}

// x: [T, D], normalised  positions: [T]  start: [T], each query's first candidate (packed sequences)
// cache: the S - T tokens before; the T new ones are appended  -> y [T, D]
template <class P>
Tensor<P> dsa_attention(const Tensor<P>& x, const Array<std::int32_t>& positions, const Array<std::int32_t>& start,
                        LayerCache<P>& cache, const AttentionWeights& w, const AttentionSettings& settings,
                        const Trace& trace) {
    const Conventions& conventions = settings.conventions;
    const DType quantised = conventions.quantizer == Quantizer::none ? DType::bfloat16 : DType::float8_e4m3;

    MlaProjection<P> mla = mla_project(x, positions, w.mla, settings.rope, conventions, settings.norm_eps);
    mla.c_q = trace.pass("c_q", std::move(mla.c_q), DType::bfloat16);
    mla.q_nope = trace.pass("q_nope", std::move(mla.q_nope), DType::bfloat16);
    mla.q_rope = trace.pass("q_rope", std::move(mla.q_rope), DType::bfloat16);
    mla.c_kv = trace.pass("c_kv", std::move(mla.c_kv), DType::bfloat16);
    mla.k_rope = trace.pass("k_rope", std::move(mla.k_rope), DType::bfloat16);

    IndexerInputs<P> indexer = indexer_quantize(indexer_projection(x, mla.c_q, positions, w.indexer, w.mla.d_rope(),
                                                                   settings.rope, conventions, settings.norm_eps),
                                                conventions);
    indexer.q = trace.pass("indexer_q", std::move(indexer.q), quantised, "indexer_q_scale");
    indexer.q_scale = trace.pass_scale("indexer_q_scale", std::move(indexer.q_scale));
    indexer.k = trace.pass("indexer_k", std::move(indexer.k), quantised, "indexer_k_scale");
    indexer.k_scale = trace.pass_scale("indexer_k_scale", std::move(indexer.k_scale));
    indexer.weights = trace.pass("indexer_weights", std::move(indexer.weights), DType::float32, "1/indexer_q_scale");

    append_rows(cache.kv, trace.pass("kv", cached_latent(mla, conventions), DType::bfloat16));
    append_rows(cache.k, indexer.k);
    append_rows(cache.k_scale, indexer.k_scale);
    const Index T = x.dim(0);
    const Index S = cache.kv.dim(0);

    const Array<std::int32_t> end = causal_range(T, S).second;
    const Tensor<P> logits = trace.pass(
        "indexer_logits", indexer_logits(indexer.q, cache.k, cache.k_scale, indexer.weights, start, end, conventions),
        DType::float32);
    const Array<std::int32_t> indices =
        trace.pass("topk_indices", top_k(logits, start, end, settings.topk, conventions.nan_scores));

    const Tensor<P> q = trace.pass("q", absorbed_query(mla, w.mla), DType::bfloat16);
    AttentionOutput<P> attention = sparse_attention(q, cache.kv, indices, settings.scale, w.mla.R_kv());
    attention.out = trace.pass("attention_out", std::move(attention.out), DType::bfloat16);
    trace.show("attention_lse", lse_by_convention(attention.lse, conventions), DType::float32);
    trace.show("attention_max_logit", attention.max_logit, DType::float32);
    return trace.pass("attention_y", output_projection(attention.out, w.mla, conventions), DType::bfloat16);
}

}  // namespace dsa
