// Scores to weights, weights to a mean of values: the part that dense and sparse attention share.
#pragma once

#include <limits>
#include <span>

#include "reference/conventions.h"
#include "reference/numerics/ordered.h"

namespace dsa {

template <class P>
struct AttentionOutput {
    Tensor<P> out;        // [T, H, d_v], stored as bf16
    Tensor<P> lse;        // [T, H], natural logarithm; -inf where nothing was attended to
    Tensor<P> max_logit;  // [T, H], after scaling; -inf where nothing was attended to
};

// One number a head that joins softmax's denominator and has no value: a place to attend to nothing.
// Empty: no sink. `lse` leaves it out, so that partial results still combine.
template <class P>
using Sink = Tensor<P>;

// An output for T queries of H heads, filled as for queries that attend to nothing.
template <class P>
AttentionOutput<P> empty_attention(Index T, Index H, Index d_v) {
    using Real = typename P::Real;
    const Real minus_infinity(-std::numeric_limits<double>::infinity());
    return {Tensor<P>({T, H, d_v}), Tensor<P>({T, H}, minus_infinity), Tensor<P>({T, H}, minus_infinity)};
}

// p_s = exp(l_s - max) for one head, and what their sum and maximum are.
template <class P>
struct Softmax {
    using Real = typename P::Real;
    Eigen::Array<Real, 1, Eigen::Dynamic> exponentials;
    Real sum{0.0};
    Real max{0.0};

    // logits: n > 0 scaled scores
    explicit Softmax(const Eigen::Array<Real, 1, Eigen::Dynamic>& logits)
        : exponentials(logits.size()), max(logits(0)) {
        for (Index s = 1; s < logits.size(); ++s)
            if (value_of(max) < value_of(Real(logits(s)))) max = logits(s);
        // Any shift gives the same softmax: its own error cancels.
        const Real shift = P::shift(max);
        for (Index s = 0; s < logits.size(); ++s) exponentials(s) = exp(Real(logits(s)) - shift);
        sum = ordered_sum(exponentials);
    }
    Real lse() const { return P::shift(max) + log(sum); }
};

// Attention of heads [first_head, first_head + logits.rows()) of query t over n > 0 positions.
// scores: [heads, n], not yet scaled  values: [n, d_v]
template <class P>
void attend(const Matrix<typename P::Real>& scores, const Matrix<typename P::Real>& values, double scale,
            const Sink<P>& sink, Index t, Index first_head, AttentionOutput<P>& result) {
    using Real = typename P::Real;
    Matrix<Real> p(scores.rows(), scores.cols());  // not yet normalised, stored as bf16 for the product
    Eigen::Array<Real, Eigen::Dynamic, 1> denominator(scores.rows());
    for (Index i = 0; i < scores.rows(); ++i) {
        const Index h = first_head + i;
        const Softmax<P> softmax(scores.row(i).array() * P::constant(scale));
        for (Index s = 0; s < scores.cols(); ++s) p(i, s) = P::bf16_at_any_scale(softmax.exponentials(s));
        denominator(i) = softmax.sum;
        if (!sink.empty()) denominator(i) += exp(sink[h] - P::shift(softmax.max));
        result.lse(t, h) = softmax.lse();
        result.max_logit(t, h) = softmax.max;
    }
    const Matrix<Real> weighted = matmul(p, values);
    for (Index i = 0; i < scores.rows(); ++i)
        for (Index d = 0; d < weighted.cols(); ++d)
            result.out(t, first_head + i, d) = P::bf16(weighted(i, d) / denominator(i));
}

// lse as a convention wants it: base 2, or +inf for empty rows.
template <class P>
Tensor<P> lse_by_convention(Tensor<P> lse, const Conventions& conventions) {
    using Real = typename P::Real;
    for (Index i = 0; i < lse.size(); ++i) {
        if (std::isinf(value_of(lse[i]))) {
            if (conventions.empty_row_lse == EmptyRowLse::plus_infinity)
                lse[i] = Real(std::numeric_limits<double>::infinity());
        } else if (conventions.lse == LogBase::base2) {
            lse[i] *= P::constant(1.0 / elementary::ln2);
        }
    }
    return lse;
}

// Partial results over disjoint sets of positions become the result over their union (split-KV):
// out = sum_i exp(lse_i - lse) out_i, lse = log sum_i exp(lse_i).
template <class P>
AttentionOutput<P> combined(std::span<const AttentionOutput<P>> parts) {
    using Real = typename P::Real;
    const auto& shape = parts.front().out.shape();
    AttentionOutput<P> whole = empty_attention<P>(shape[0], shape[1], shape[2]);
    for (Index r = 0; r < whole.lse.size(); ++r) {
        std::vector<const AttentionOutput<P>*> present;
        for (const auto& part : parts)
            if (!std::isinf(value_of(part.lse[r]))) present.push_back(&part);
        if (present.empty()) continue;
        Eigen::Array<Real, 1, Eigen::Dynamic> logits(present.size());
        for (std::size_t i = 0; i < present.size(); ++i) logits(i) = present[i]->lse[r];
        const Softmax<P> softmax(logits);
        whole.lse[r] = softmax.lse();
        whole.max_logit[r] = present.front()->max_logit[r];
        for (std::size_t i = 0; i < present.size(); ++i) {
            if (value_of(whole.max_logit[r]) < value_of(present[i]->max_logit[r]))
                whole.max_logit[r] = present[i]->max_logit[r];
            whole.out.row(r) += present[i]->out.row(r) * (softmax.exponentials(i) / softmax.sum);
        }
    }
    whole.out = stored_as_bf16(std::move(whole.out));
    return whole;
}

}  // namespace dsa
