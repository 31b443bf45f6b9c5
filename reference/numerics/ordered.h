// Sums and matrix products whose order of additions is written in the source.
//
// Floating-point addition is not associative, so a sum's last bits depend on its order, and a library's
// order depends on vector width, cache sizes and threads. Here every sum runs over its index upwards, one
// product after the other, each rounded (no fused multiply-add: the build says -ffp-contract=off). The
// same bits come out on every CPU and from every compiler. Vector units still help: they work on many
// outputs at once, never on one output's terms.
#pragma once

#include <algorithm>
#include <complex>
#include <vector>

#include "reference/numerics/array.h"
#include "reference/numerics/bounded.h"
#include "reference/numerics/precision.h"
#include "reference/numerics/weight.h"

namespace dsa {

// sum_i x_i
template <class Derived>
typename Derived::Scalar ordered_sum(const Eigen::DenseBase<Derived>& x) {
    typename Derived::Scalar total(0.0);
    for (Eigen::Index i = 0; i < x.size(); ++i) total += x.derived().coeff(i);
    return total;
}

namespace detail {

// a b and x W for each kind of number: ordered.cpp. Whatever expression is multiplied is written out first, so that
// products are compiled once, not for each pair of expressions.
template <class R>
Matrix<R> product(const Matrix<R>& a, const Matrix<R>& b);
template <class R>
Matrix<R> product(const Matrix<R>& x, const Weight& w);

}  // namespace detail

// a b, each element summed over the inner index upwards. a: [M, K], b: [K, N].
template <class A, class B>
Matrix<typename A::Scalar> matmul(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
    return detail::product<typename A::Scalar>(a.derived(), b.derived());
}

// x W: every row of x times a weight. x: [..., K], W: [K, N] -> [..., N].
template <class P>
Tensor<P> matmul(const Tensor<P>& x, const Weight& w) {
    Shape shape = x.shape();
    shape.back() = w.cols();
    Tensor<P> y(shape);
    y.matrix() = detail::product<typename P::Real>(x.matrix(), w);
    return y;
}

// sum_i x_i y_i
template <class A, class B>
typename A::Scalar ordered_dot(const Eigen::DenseBase<A>& x, const Eigen::DenseBase<B>& y) {
    typename A::Scalar total(0.0);
    for (Eigen::Index i = 0; i < x.size(); ++i) total += x.derived().coeff(i) * y.derived().coeff(i);
    return total;
}

}  // namespace dsa
