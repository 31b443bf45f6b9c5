// How does the main model learn under dense attention? In MHA mode, which training uses, each head's keys and values
// get their own gradients; in MQA mode the shared latent's are added up over all heads and queries. spec sections 2
// and 5.
#pragma once

#include "reference/attention/dense_attention.h"
#include "reference/training/attention_backward.h"

namespace dsa {

template <class P>
struct MqaGradient {
    Tensor<P> dq;   // [T, H, d]
    Tensor<P> dkv;  // [S, d]
};

// q: [T, H, d]  kv: [S, d], the first d_v columns being the value  out, dout: [T, H, d_v]  lse: [T, H], natural
template <class P>
MqaGradient<P> dense_mqa_backward(const Tensor<P>& q, const Tensor<P>& kv, const Tensor<P>& out, const Tensor<P>& lse,
                                  const Tensor<P>& dout, double scale, const DenseRange& range) {
    MqaGradient<P> gradient{Tensor<P>(q.shape()), Tensor<P>(kv.shape())};
    for (Index t = 0; t < q.dim(0); ++t) {
        const auto [first, last] = range.of(t, q.dim(0), kv.dim(0));
        if (first >= last) continue;
        const auto seen = kv.matrix().middleRows(first, last - first);
        QueryGradient<P> of = attention_backward<P>(q.slice(t), seen, seen.leftCols(out.dim(2)), out.slice(t),
                                                    lse.row(t), dout.slice(t), scale);
        of.dk.leftCols(out.dim(2)) += of.dv;
        gradient.dq.slice(t) = of.dq;
        gradient.dkv.matrix().middleRows(first, last - first) += of.dk;
    }
    gradient.dq = stored_as_bf16(std::move(gradient.dq));
    return gradient;  // dkv stays float32: many heads and queries add to it
}

template <class P>
struct MhaGradient {
    Tensor<P> dq;  // [T, H, d]
    Tensor<P> dk;  // [S, H, d]
    Tensor<P> dv;  // [S, H, d_v]
};

// q: [T, H, d]  k: [S, H, d]  v: [S, H, d_v]  out, dout: [T, H, d_v]  lse: [T, H], natural
template <class P>
MhaGradient<P> dense_mha_backward(const Tensor<P>& q, const Tensor<P>& k, const Tensor<P>& v, const Tensor<P>& out,
                                  const Tensor<P>& lse, const Tensor<P>& dout, double scale,
                                  const DenseRange& range) {
    const Index H = q.dim(1);
    const Index S = k.dim(0);
    MhaGradient<P> gradient{Tensor<P>(q.shape()), Tensor<P>(k.shape()), Tensor<P>(v.shape())};
    const auto of_head = [H, S](auto& x, Index h, Index first, Index count) {
        // Head h of every position: one row of x seen as [S, H d].
        const Index d = x.dim(2);
        using View = std::conditional_t<std::is_const_v<std::remove_reference_t<decltype(x)>>,
                                        ConstMatrixView<typename P::Real>, MatrixView<typename P::Real>>;
        return View(x.data(), S, H * d).block(first, h * d, count, d);
    };
    for (Index t = 0; t < q.dim(0); ++t) {
        const auto [first, last] = range.of(t, q.dim(0), S);
        if (first >= last) continue;
        const Index n = last - first;
        for (Index h = 0; h < H; ++h) {
            const QueryGradient<P> of = attention_backward<P>(
                q.slice(t).middleRows(h, 1), of_head(k, h, first, n), of_head(v, h, first, n),
                out.slice(t).middleRows(h, 1), lse.row(t).segment(h, 1), dout.slice(t).middleRows(h, 1), scale);
            gradient.dq.slice(t).middleRows(h, 1) = of.dq;
            of_head(gradient.dk, h, first, n) += of.dk;
            of_head(gradient.dv, h, first, n) += of.dv;
        }
    }
    return {stored_as_bf16(std::move(gradient.dq)), stored_as_bf16(std::move(gradient.dk)),
            stored_as_bf16(std::move(gradient.dv))};
}

}  // namespace dsa
