// Products in a stated order: the only matrix products of the reference but training's.
#include "reference/numerics/ordered.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <vector>

namespace dsa::detail {
namespace {

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
template <class R>
Matrix<R> multiply_matrices(const Matrix<R>& a, const Matrix<R>& b) {
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

// A product of bounded matrices from products of plain numbers: its values, what its operands' errors make of it by
// either comparison, and the magnitudes that were added.
Matrix<Bounded> assemble(const Matrix<double>& value, const Matrix<double>& exact_error,
                         const Matrix<double>& deployed_error, const Matrix<double>& magnitude, Index depth) {
    Matrix<Bounded> c(value.rows(), value.cols());
    for (Index i = 0; i < c.size(); ++i) {
        const auto in_all = [&](double error, double unit) {
            // n products and n - 1 additions in any order: n u sum |a b| (Higham, section 3.1).
            const double rounding = static_cast<double>(depth) * unit * (magnitude.data()[i] + error);
            const double total = error + rounding;
            return std::isnan(total) ? std::numeric_limits<double>::infinity() : total;
        };
        const Errors error{exact_error.data()[i], deployed_error.data()[i]};
        c.data()[i] = {value.data()[i], each(in_all, error, Bounded::unit)};
    }
    return c;
}

Matrix<double> values(const Matrix<Bounded>& m) {
    return m.unaryExpr([](Bounded x) { return x.value; }).cast<double>();
}
Matrix<double> errors(const Matrix<Bounded>& m, double Errors::*of) {
    return m.unaryExpr([of](Bounded x) { return x.error.*of; }).cast<double>();
}

}  // namespace

template <class R>
Matrix<R> product(const Matrix<R>& a, const Matrix<R>& b) {
    require(a.cols() == b.rows(), "matmul: the inner sizes differ, ", a.cols(), " and ", b.rows());
    if constexpr (std::is_same_v<R, Bounded>) {
        const Matrix<double> a_value = values(a);
        const Matrix<double> b_value = values(b);
        const Matrix<double> a_size = a_value.cwiseAbs();
        const Matrix<double> b_size = b_value.cwiseAbs();
        const auto error = [&](double Errors::*of) {
            const Matrix<double> b_error = errors(b, of);
            Matrix<double> sum = multiply_matrices<double>(errors(a, of), b_size + b_error);
            sum += multiply_matrices(a_size, b_error);
            return sum;
        };
        return assemble(multiply_matrices(a_value, b_value), error(&Errors::exact), error(&Errors::deployed),
                        multiply_matrices(a_size, b_size), a.cols());
    } else {
        return multiply_matrices(a, b);
    }
}

template <class R>
Matrix<R> product(const Matrix<R>& x, const Weight& w) {
    require(x.cols() == w.rows(), "matmul: a row of ", x.cols(), " numbers cannot multiply ", w.name(), " with ",
            w.rows(), " rows");
    if constexpr (std::is_same_v<R, Bounded>) {
        const Matrix<double> value = values(x);
        // Weights are given, not computed: they carry no error of their own.
        const auto error = [&](double Errors::*of) { return multiply_weight(errors(x, of), w, true); };
        return assemble(multiply_weight(value, w, false), error(&Errors::exact), error(&Errors::deployed),
                        multiply_weight<double>(value.cwiseAbs(), w, true), x.cols());
    } else {
        return multiply_weight(x, w, false);
    }
}

#define FOR_NUMBERS(R)                                                  \
    template Matrix<R> product(const Matrix<R>& a, const Matrix<R>& b); \
    template Matrix<R> product(const Matrix<R>& x, const Weight& w);
FOR_NUMBERS(float)
FOR_NUMBERS(double)
FOR_NUMBERS(std::complex<double>)
FOR_NUMBERS(Bounded)
#undef FOR_NUMBERS

}  // namespace dsa::detail
