// How does the main model learn through attention? The gradient of softmax attention of one query over some
// positions, which dense and sparse attention share. spec section 5.
#pragma once

#include "reference/attention/softmax_attention.h"

namespace dsa {

// Of one query and its heads over n positions.
template <class P>
struct QueryGradient {
    Matrix<typename P::Real> dq;  // [H, d]
    Matrix<typename P::Real> dk;  // [n, d]
    Matrix<typename P::Real> dv;  // [n, d_v]
};

// With p = exp(score * scale - lse) and delta = sum_d out * dout:
//   dscore = p (dout . value - delta) scale,   dq = dscore k,   dk = dscore^T q,   dv = p^T dout.
// q: [H, d]  k: [n, d]  v: [n, d_v]  out, dout: [H, d_v]  lse: [H], natural
template <class P>
QueryGradient<P> attention_backward(const Matrix<typename P::Real>& q, const Matrix<typename P::Real>& k,
                                    const Matrix<typename P::Real>& v, const Matrix<typename P::Real>& out,
                                    const Eigen::Array<typename P::Real, 1, Eigen::Dynamic>& lse,
                                    const Matrix<typename P::Real>& dout, double scale) {
    using Real = typename P::Real;
    const Matrix<Real> scores = matmul(q, k.transpose());  // [H, n]
    const Matrix<Real> d_p = matmul(dout, v.transpose());  // [H, n]
    Matrix<Real> p(scores.rows(), scores.cols());
    Matrix<Real> d_scores(scores.rows(), scores.cols());
    for (Index h = 0; h < scores.rows(); ++h) {
        const Real delta = ordered_dot(out.row(h), dout.row(h));
        for (Index s = 0; s < scores.cols(); ++s) {
            const Real probability = exp(scores(h, s) * P::constant(scale) - lse(h));
            // Both factors of the products below are stored as bf16.
            p(h, s) = P::bf16_at_any_scale(probability);
            d_scores(h, s) = P::bf16_at_any_scale(probability * (d_p(h, s) - delta) * P::constant(scale));
        }
    }
    return {matmul(d_scores, k), matmul(d_scores.transpose(), q), matmul(p.transpose(), dout)};
}

}  // namespace dsa
