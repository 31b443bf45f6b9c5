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

// Columns worked on at once: 64 bytes of them, whatever the machine's vectors are.
template <class R>
inline constexpr int panel_columns = sizeof(R) <= 4 ? 16 : 8;
inline constexpr int panel_rows = 4;

// A tile of results: one column of this array a row of the product.
template <class R>
using Tile = Eigen::Array<R, panel_columns<R>, panel_rows>;

// tile(j, i) = sum_k a(i, k) b(k, j), k upwards.
// a: panel_rows rows, `depth` apart. b: [depth, panel_columns], contiguous.
template <class R>
Tile<R> multiply_tile(const R* a, const R* b, Index depth) {
    using Columns = Eigen::Array<R, panel_columns<R>, 1>;
    // Four named accumulators, not an array of them: compilers keep these in registers.
    Columns c0 = Columns::Constant(R(0.0));
    Columns c1 = c0;
    Columns c2 = c0;
    Columns c3 = c0;
    for (Index k = 0; k < depth; ++k) {
        const Eigen::Map<const Columns> b_row(b + k * panel_columns<R>);
        c0 += a[k] * b_row;
        c1 += a[depth + k] * b_row;
        c2 += a[2 * depth + k] * b_row;
        c3 += a[3 * depth + k] * b_row;
    }
    Tile<R> tile;
    tile << c0, c1, c2, c3;
    return tile;
}

// c = a b, where `fill(first_column, columns, panel)` lays out b's columns as a [depth, panel_columns] panel.
template <class R, class FillPanel>
void multiply(const Matrix<R>& a, Index columns, FillPanel&& fill, Matrix<R>& c) {
    const Index rows = a.rows();
    const Index depth = a.cols();
    // Rows beyond the last are zero, so that every tile is whole.
    const Index tiles = (rows + panel_rows - 1) / panel_rows;
    std::vector<R> padded(static_cast<std::size_t>(tiles * panel_rows * depth), R(0.0));
    std::copy(a.data(), a.data() + a.size(), padded.data());
    std::vector<R> panel(static_cast<std::size_t>(depth * panel_columns<R>));
    c.resize(rows, columns);
    for (Index first = 0; first < columns; first += panel_columns<R>) {
        const Index width = std::min<Index>(panel_columns<R>, columns - first);
        if (width < panel_columns<R>) std::fill(panel.begin(), panel.end(), R(0.0));
        fill(first, width, panel.data());
        for (Index tile = 0; tile < tiles; ++tile) {
            const Tile<R> result = multiply_tile(padded.data() + tile * panel_rows * depth, panel.data(), depth);
            for (Index i = tile * panel_rows; i < std::min(rows, (tile + 1) * panel_rows); ++i)
                for (Index j = 0; j < width; ++j) c(i, first + j) = result(j, i - tile * panel_rows);
        }
    }
}

// c = a b for plain numbers.
template <class R, class A, class B>
Matrix<R> multiply_matrices(const A& a, const B& b) {
    Matrix<R> c;
    multiply<R>(
        a, b.cols(),
        [&](Index first, Index width, R* panel) {
            for (Index k = 0; k < b.rows(); ++k)
                for (Index j = 0; j < width; ++j) panel[k * panel_columns<R> + j] = b.coeff(k, first + j);
        },
        c);
    return c;
}

template <class R>
Matrix<R> multiply_weight(const Matrix<R>& a, const Weight& w, bool magnitudes) {
    Matrix<R> c;
    multiply<R>(
        a, w.cols(),
        [&](Index first, Index width, R* panel) {
            std::vector<float> row(static_cast<std::size_t>(width));
            for (Index k = 0; k < w.rows(); ++k) {
                w.read(k, first, width, row.data());
                for (Index j = 0; j < width; ++j) {
                    const float value = row[static_cast<std::size_t>(j)];
                    panel[k * panel_columns<R> + j] = static_cast<R>(magnitudes ? std::fabs(value) : value);
                }
            }
        },
        c);
    return c;
}

template <class T>
struct IsBounded : std::false_type {};
template <Against against>
struct IsBounded<Bounded<against>> : std::true_type {};

// Value, error and magnitude of a product of bounded matrices, as three products of plain numbers.
template <class R>
Matrix<R> assemble(const Matrix<double>& value, const Matrix<double>& error, const Matrix<double>& magnitude,
                   Index depth) {
    Matrix<R> c(value.rows(), value.cols());
    for (Index i = 0; i < c.size(); ++i) {
        // n products and n - 1 additions in any order: n u sum |a b| (Higham, section 3.1).
        const double rounding = static_cast<double>(depth) * R::unit * (magnitude.data()[i] + error.data()[i]);
        const double total = error.data()[i] + rounding;
        c.data()[i] = {value.data()[i], std::isnan(total) ? std::numeric_limits<double>::infinity() : total};
    }
    return c;
}

template <class M>
Matrix<double> values(const M& m) {
    return m.unaryExpr([](auto x) { return x.value; }).template cast<double>();
}
template <class M>
Matrix<double> errors(const M& m) {
    return m.unaryExpr([](auto x) { return x.error; }).template cast<double>();
}

}  // namespace detail

// a b, each element summed over the inner index upwards. a: [M, K], b: [K, N].
template <class A, class B>
Matrix<typename A::Scalar> matmul(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
    using R = typename A::Scalar;
    require(a.cols() == b.rows(), "matmul: the inner sizes differ, ", a.cols(), " and ", b.rows());
    if constexpr (detail::IsBounded<R>::value) {
        const Matrix<double> a_value = detail::values(a.derived());
        const Matrix<double> a_error = detail::errors(a.derived());
        const Matrix<double> b_value = detail::values(b.derived());
        const Matrix<double> b_error = detail::errors(b.derived());
        const Matrix<double> a_size = a_value.cwiseAbs();
        const Matrix<double> b_size = b_value.cwiseAbs();
        Matrix<double> error = detail::multiply_matrices<double>(a_error, Matrix<double>(b_size + b_error));
        error += detail::multiply_matrices<double>(a_size, b_error);
        return detail::assemble<R>(detail::multiply_matrices<double>(a_value, b_value), error,
                                   detail::multiply_matrices<double>(a_size, b_size), a.cols());
    } else {
        return detail::multiply_matrices<R>(a.derived(), b.derived());
    }
}

// x W: every row of x times a weight. x: [..., K], W: [K, N] -> [..., N].
template <class P>
Tensor<P> matmul(const Tensor<P>& x, const Weight& w) {
    using R = typename P::Real;
    require(x.cols() == w.rows(), "matmul: a row of ", x.cols(), " numbers cannot multiply ", w.name(), " with ",
            w.rows(), " rows");
    Shape shape = x.shape();
    shape.back() = w.cols();
    Tensor<P> y(shape);
    if constexpr (detail::IsBounded<R>::value) {
        const Matrix<double> value = detail::values(x.matrix());
        const Matrix<double> size = value.cwiseAbs();
        // Weights are given, not computed: they carry no error of their own.
        y.matrix() = detail::assemble<R>(detail::multiply_weight<double>(value, w, false),
                                         detail::multiply_weight<double>(detail::errors(x.matrix()), w, true),
                                         detail::multiply_weight<double>(size, w, true), x.cols());
    } else {
        y.matrix() = detail::multiply_weight<R>(x.matrix(), w, false);
    }
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
