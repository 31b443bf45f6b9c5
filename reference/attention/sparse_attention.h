// How does a query attend to its selected tokens only? Gather their latents, and let all heads share them.
// DeepSeek-V3.2-Exp report, section 2; spec section 5.
#pragma once

#include <vector>

#include "reference/attention/softmax_attention.h"

namespace dsa {

// The set S_t: valid indices of one row in their order, each once. -1 and anything else outside [0, S) is
// skipped, and a duplicate counts once: the selection is a set.
inline std::vector<Index> selected_positions(const Array<std::int32_t>& indices, Index t, Index S) {
    std::vector<Index> selected;
    std::vector<bool> seen(static_cast<std::size_t>(S), false);
    for (Index i = 0; i < indices.cols(); ++i) {
        const Index s = indices.row(t)(i);
        if (s < 0 || s >= S || seen[static_cast<std::size_t>(s)]) continue;
        seen[static_cast<std::size_t>(s)] = true;
        selected.push_back(s);
    }
    return selected;
}

// The selected rows of kv. [S, d] -> [n, d]
template <class P>
Matrix<typename P::Real> gathered(const Tensor<P>& kv, const std::vector<Index>& selected) {
    Matrix<typename P::Real> rows(static_cast<Index>(selected.size()), kv.cols());
    for (std::size_t i = 0; i < selected.size(); ++i) rows.row(static_cast<Index>(i)) = kv.matrix().row(selected[i]);
    return rows;
}

// Sparse attention over S positions whose rows `gather` brings: from a tensor, or from the pages of a cache.
// gather(selected) -> [n, R_kv + d_rope], of which the first d_v are the value
// q: [T, H, R_kv + d_rope]  indices: [T, k]  sink: [H] or empty
// -> out [T, H, d_v], lse [T, H], max_logit [T, H]
template <class P, class Gather>
AttentionOutput<P> sparse_attention_over(const Tensor<P>& q, Index S, const Gather& gather,
                                         const Array<std::int32_t>& indices, double scale, Index d_v,
                                         const Sink<P>& sink = {}) {
    AttentionOutput<P> result = empty_attention<P>(q.dim(0), q.dim(1), d_v);
    for (Index t = 0; t < q.dim(0); ++t) {
        const std::vector<Index> selected = selected_positions(indices, t, S);
        if (selected.empty()) continue;
        const Matrix<typename P::Real> rows = gather(selected);                        // [n, R_kv + d_rope]
        const Matrix<typename P::Real> scores = matmul(q.slice(t), rows.transpose());  // [H, n]
        attend<P>(scores, rows.leftCols(d_v), scale, sink, t, 0, result);
    }
    return result;
}

// kv: [S, R_kv + d_rope]
template <class P>
AttentionOutput<P> sparse_attention(const Tensor<P>& q, const Tensor<P>& kv, const Array<std::int32_t>& indices,
                                    double scale, Index d_v, const Sink<P>& sink = {}) {
    const auto gather = [&kv](const std::vector<Index>& selected) { return gathered(kv, selected); };
    return sparse_attention_over(q, kv.dim(0), gather, indices, scale, d_v, sink);
}

}  // namespace dsa
