// How does the main model learn under sparse attention? The gradient of softmax attention over each query's
// set; the gradients of a shared latent are added up over the queries that selected it. spec section 5.
#pragma once

#include "reference/attention/sparse_attention.h"
#include "reference/training/attention_backward.h"

namespace dsa {

template <class P>
struct SparseAttentionGradient {
    Tensor<P> dq;   // [T, H, d]
    Tensor<P> dkv;  // [S, d]
};

// The first d_v columns of kv are the value: they gather from both products.
// q: [T, H, d]  kv: [S, d]  indices: [T, k]  out, dout: [T, H, d_v]  lse: [T, H], natural
template <class P>
SparseAttentionGradient<P> sparse_attention_backward(const Tensor<P>& q, const Tensor<P>& kv,
                                                     const Array<std::int32_t>& indices, const Tensor<P>& out,
                                                     const Tensor<P>& lse, const Tensor<P>& dout, double scale) {
    SparseAttentionGradient<P> gradient{Tensor<P>(q.shape()), Tensor<P>(kv.shape())};
    for (Index t = 0; t < q.dim(0); ++t) {
        const std::vector<Index> selected = selected_positions(indices, t, kv.dim(0));
        if (selected.empty()) continue;
        const Matrix<typename P::Real> rows = gathered(kv, selected);  // [n, d]
        QueryGradient<P> of = attention_backward<P>(q.slice(t), rows, rows.leftCols(out.dim(2)), out.slice(t),
                                                    lse.row(t), dout.slice(t), scale);
        of.dk.leftCols(out.dim(2)) += of.dv;
        gradient.dq.slice(t) = of.dq;
        for (std::size_t i = 0; i < selected.size(); ++i)
            gradient.dkv.matrix().row(selected[i]) += of.dk.row(static_cast<Index>(i));
    }
    gradient.dq = stored_as_bf16(std::move(gradient.dq));
    return gradient;  // dkv stays float32: many queries add to it
}

}  // namespace dsa
