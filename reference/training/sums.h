// In which order does the tape add? Training multiplies and sums with Eigen, whose order follows from the CPU's
// vector units and is fast. Every other tier adds in the order that the source says (numerics/ordered.h), so that the
// goldens of training are the same bytes everywhere. The formulas of layers.h and attention.h are written once and
// ask here.
#pragma once

#include "reference/attention/softmax_attention.h"
#include "reference/numerics/ordered.h"
#include "reference/training/tape.h"

namespace dsa {

template <class P>
inline constexpr bool adds_in_any_order = std::is_same_v<P, Trained>;

// c = a b
template <class P, class C, class A, class B>
void set_product(C&& c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
    if constexpr (adds_in_any_order<P>)
        c.noalias() = a.derived() * b.derived();
    else
        c = matmul(a, b);
}

// c += a b
template <class P, class C, class A, class B>
void add_product(C&& c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
    if constexpr (adds_in_any_order<P>)
        c.noalias() += a.derived() * b.derived();
    else
        c += matmul(a, b);
}

// sum_i x_i
template <class P, class X>
typename P::Real sum_of(const Eigen::ArrayBase<X>& x) {
    if constexpr (adds_in_any_order<P>)
        return x.sum();
    else
        return ordered_sum(x.derived());
}

// sum_j x_ij for each row
template <class P, class X>
Eigen::Array<typename P::Real, Eigen::Dynamic, 1> row_sums_of(const Eigen::ArrayBase<X>& x) {
    if constexpr (adds_in_any_order<P>) {
        return x.rowwise().sum();
    } else {
        Eigen::Array<typename P::Real, Eigen::Dynamic, 1> sums(x.rows());
        for (Index i = 0; i < x.rows(); ++i) sums(i) = ordered_sum(x.derived().row(i));
        return sums;
    }
}

// 1 / (1 + exp(-x)), element by element
template <class P, class X>
Matrix<typename P::Real> sigmoid_of(const Eigen::ArrayBase<X>& x) {
    using Real = typename P::Real;
    if constexpr (adds_in_any_order<P>)
        return (Real(1.0) / (Real(1.0) + (-x.derived()).exp())).matrix();
    else
        return x.unaryExpr([](Real v) { return sigmoid(v); }).matrix();
}

// x to exp(x - max), in place -> {max, their sum}; -inf becomes 0
template <class P, class Row>
std::pair<typename P::Real, typename P::Real> exponentials_in_place(Row&& row) {
    using Real = typename P::Real;
    if constexpr (adds_in_any_order<P>) {
        const Real max = row.maxCoeff();
        row = (row - max).exp();
        return {max, row.sum()};
    } else {
        const Softmax<P> softmax(row);
        row = softmax.exponentials;
        return {P::shift(softmax.max), softmax.sum};
    }
}

// max(x, 0), element by element
template <class P>
Matrix<typename P::Real> relu_of(Matrix<typename P::Real> x) {
    using Real = typename P::Real;
    if constexpr (adds_in_any_order<P>)
        x = x.cwiseMax(Real(0.0));
    else
        x = x.unaryExpr([](Real v) { return relu(v); }).eval();
    return x;
}

// What ReLU lets back through: d where its result is above 0, and 0 elsewhere. Where the error of that result reaches
// below 0, another implementation may let d through or not.
template <class Real>
Real let_through(Real relu, Real d) {
    const Real passed = value_of(relu) > 0.0 ? d : Real(0.0);
    if constexpr (requires { relu.error; })
        return {passed.value, each(
                                  [&](double error, double of_passed, double of_d) {
                                      const bool may_pass = error > 0.0 && !(relu.value > error);
                                      return may_pass ? std::fabs(d.value) + of_d : of_passed;
                                  },
                                  relu.error, passed.error, d.error)};
    else
        return passed;
}

// Probabilities as a product reads them: bf16, at the scale of each kernel's own running maximum.
template <class P>
decltype(auto) as_read(const Matrix<typename P::Real>& p) {
    using Real = typename P::Real;
    if constexpr (adds_in_any_order<P>)
        return (p);
    else
        return Matrix<Real>(p.unaryExpr([](Real x) { return P::bf16_at_any_scale(x); }));
}

}  // namespace dsa
