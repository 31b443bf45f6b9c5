// What does attention to everything give? The honest baseline, in both of MLA's modes: with each head's own
// keys and values (MHA), or with all heads on the shared latent (MQA). spec section 2.
#pragma once

#include "reference/attention/softmax_attention.h"

namespace dsa {

// Causal: query t stands at S - T + t and sees positions start_t ... S - T + t. Not causal: all from start_t.
struct DenseRange {
    bool causal = true;
    Array<std::int32_t> start;  // [T], or empty for 0: the first token of a packed sequence

    std::pair<Index, Index> of(Index t, Index T, Index S) const {
        return {start.empty() ? 0 : start[t], causal ? S - T + t + 1 : S};
    }
};

// MQA. q: [T, H, R_kv + d_rope]  kv: [S, R_kv + d_rope], the first d_v of which are the value
template <class P>
AttentionOutput<P> dense_attention_mqa(const Tensor<P>& q, const Tensor<P>& kv, double scale, Index d_v,
                                       const DenseRange& range, const Sink<P>& sink = {}) {
    AttentionOutput<P> result = empty_attention<P>(q.dim(0), q.dim(1), d_v);
    for (Index t = 0; t < q.dim(0); ++t) {
        const auto [first, last] = range.of(t, q.dim(0), kv.dim(0));
        if (first >= last) continue;
        const auto seen = kv.matrix().middleRows(first, last - first);  // [n, R_kv + d_rope]
        attend<P>(matmul(q.slice(t), seen.transpose()), seen.leftCols(d_v), scale, sink, t, 0, result);
    }
    return result;
}

// MHA. q: [T, H, d_nope + d_rope]  k: [S, H, d_nope + d_rope]  v: [S, H, d_v]
template <class P>
AttentionOutput<P> dense_attention_mha(const Tensor<P>& q, const Tensor<P>& k, const Tensor<P>& v, double scale,
                                       const DenseRange& range, const Sink<P>& sink = {}) {
    const Index H = q.dim(1);
    const Index d_v = v.dim(2);
    AttentionOutput<P> result = empty_attention<P>(q.dim(0), H, d_v);
    const Index d = q.dim(2);
    for (Index t = 0; t < q.dim(0); ++t) {
        const auto [first, last] = range.of(t, q.dim(0), k.dim(0));
        if (first >= last) continue;
        for (Index h = 0; h < H; ++h) {
            // Head h of every position: one row of k seen as [S, H d].
            const ConstMatrixView<typename P::Real> all_k(k.data(), k.dim(0), H * d);
            const ConstMatrixView<typename P::Real> all_v(v.data(), v.dim(0), H * d_v);
            const auto k_head = all_k.block(first, h * d, last - first, d);
            const auto v_head = all_v.block(first, h * d_v, last - first, d_v);
            attend<P>(matmul(q.slice(t).middleRows(h, 1), k_head.transpose()), v_head, scale, sink, t, h, result);
        }
    }
    return result;
}

}  // namespace dsa
