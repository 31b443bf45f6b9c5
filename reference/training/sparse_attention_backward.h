// How does the main model learn under sparse attention? The gradient of softmax attention over each query's
// set; the gradients of a shared latent are added up over the queries that selected it. spec section 5.
#pragma once

#include "reference/attention/sparse_attention.h"

namespace dsa {

template <class P>
struct SparseAttentionGradient {
    Tensor<P> dq;   // [T, H, d]
    Tensor<P> dkv;  // [S, d]
};

// With p = exp(score * scale - lse), delta = sum_d out * dout, and the first d_v of kv being the value:
//   dscore = p (dout . value - delta) scale
//   dq = dscore kv,   dkv = dscore^T q, plus p^T dout in the first d_v columns.
// q: [T, H, d]  kv: [S, d]  indices: [T, k]  out, dout: [T, H, d_v]  lse: [T, H], natural
template <class P>
SparseAttentionGradient<P> sparse_attention_backward(const Tensor<P>& q, const Tensor<P>& kv,
                                                     const Array<std::int32_t>& indices, const Tensor<P>& out,
                                                     const Tensor<P>& lse, const Tensor<P>& dout, double scale) {
    using Real = typename P::Real;
    const Index H = q.dim(1);
    const Index d_v = out.dim(2);
    SparseAttentionGradient<P> gradient{Tensor<P>(q.shape()), Tensor<P>(kv.shape())};
    for (Index t = 0; t < q.dim(0); ++t) {
        const std::vector<Index> selected = selected_positions(indices, t, kv.dim(0));
        if (selected.empty()) continue;
        const auto n = static_cast<Index>(selected.size());
        const Matrix<Real> rows = gathered(kv, selected);                                // [n, d]
        const Matrix<Real> scores = matmul(q.slice(t), rows.transpose());                // [H, n]
        const Matrix<Real> d_p = matmul(dout.slice(t), rows.leftCols(d_v).transpose());  // [H, n]
        Matrix<Real> p(H, n);
        Matrix<Real> d_scores(H, n);
        for (Index h = 0; h < H; ++h) {
            const Real delta = ordered_dot(out.row(t, h), dout.row(t, h));
            for (Index s = 0; s < n; ++s) {
                const Real probability = exp(scores(h, s) * P::constant(scale) - lse(t, h));
                // Both factors of the products below are stored as bf16.
                p(h, s) = P::bf16_at_any_scale(probability);
                d_scores(h, s) = P::bf16_at_any_scale(probability * (d_p(h, s) - delta) * P::constant(scale));
            }
        }
        gradient.dq.slice(t) = matmul(d_scores, rows);                   // [H, d]
        Matrix<Real> d_rows = matmul(d_scores.transpose(), q.slice(t));  // [n, d]
        d_rows.leftCols(d_v) += matmul(p.transpose(), dout.slice(t));
        for (Index s = 0; s < n; ++s)
            gradient.dkv.matrix().row(selected[static_cast<std::size_t>(s)]) += d_rows.row(s);
    }
    gradient.dq = stored_as_bf16(std::move(gradient.dq));
    return gradient;  // dkv stays float32: many queries add to it
}

}  // namespace dsa
