// How is a hidden vector brought to a standard size? RMSNorm in MLA and between layers, LayerNorm on the
// indexer's keys. spec section 2 and 3; DeepSeek-V3.2-Exp, inference/model.py, RMSNorm and LayerNorm.
#pragma once

#include "reference/numerics/ordered.h"

namespace dsa {

inline constexpr double norm_epsilon = 1e-6;

// y = x * rsqrt(mean(x^2) + eps) * weight, computed in float32, stored as bf16.
// x: [..., D]  weight: [D]  y: [..., D]
template <class P>
Tensor<P> rms_norm(const Tensor<P>& x, const Array<float>& weight, double eps = norm_epsilon) {
    using Real = typename P::Real;
    require(weight.size() == x.cols(), "rms_norm: weight must have one number for each of the ", x.cols(),
            " columns of x; it has ", weight.size());
    const auto size = static_cast<Real>(static_cast<double>(x.cols()));
    Tensor<P> y(x.shape());
    for (Index t = 0; t < x.rows(); ++t) {
        const auto row = x.row(t);
        const Real mean_square = ordered_dot(row, row) / size;
        const Real inverse_rms = Real(1.0) / sqrt(mean_square + P::constant(eps));
        auto out = y.row(t);
        for (Index d = 0; d < row.size(); ++d) out(d) = P::bf16(row(d) * inverse_rms * Real(weight[d]));
    }
    return y;
}

// y = (x - mean(x)) * rsqrt(var(x) + eps) * weight + bias, computed in float32, stored as bf16.
// x: [..., D]  weight, bias: [D]  y: [..., D]
template <class P>
Tensor<P> layer_norm(const Tensor<P>& x, const Array<float>& weight, const Array<float>& bias,
                     double eps = norm_epsilon) {
    using Real = typename P::Real;
    require(weight.size() == x.cols() && bias.size() == x.cols(), "layer_norm: weight and bias must have one number ",
            "for each of the ", x.cols(), " columns of x; they have ", weight.size(), " and ", bias.size());
    const auto size = static_cast<Real>(static_cast<double>(x.cols()));
    Tensor<P> y(x.shape());
    for (Index t = 0; t < x.rows(); ++t) {
        const Real mean = ordered_sum(x.row(t)) / size;
        const Eigen::Array<Real, 1, Eigen::Dynamic> centred = x.row(t) - mean;
        const Real variance = ordered_dot(centred, centred) / size;
        const Real inverse_deviation = Real(1.0) / sqrt(variance + P::constant(eps));
        auto out = y.row(t);
        for (Index d = 0; d < centred.size(); ++d)
            out(d) = P::bf16(centred(d) * inverse_deviation * Real(weight[d]) + Real(bias[d]));
    }
    return y;
}

}  // namespace dsa
