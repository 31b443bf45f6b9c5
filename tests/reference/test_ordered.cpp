// Sums and products in a stated order: the same bits as the plainest loop, whatever the tiling.
#include <doctest/doctest.h>

#include <array>
#include <bit>

#include "reference/numerics/ordered.h"
#include "tests/reference/random_tensors.h"

using namespace dsa;

namespace {

constexpr std::array<std::array<Index, 3>, 8> sizes{
    {{1, 1, 1}, {5, 7, 3}, {4, 128, 17}, {33, 65, 31}, {2, 0, 3}, {0, 4, 5}, {3, 1000, 16}, {1, 9, 100}}};

template <class P>
Matrix<typename P::Real> plain_product(const Tensor<P>& a, const Tensor<P>& b) {
    using Real = typename P::Real;
    Matrix<Real> c(a.dim(0), b.dim(1));
    for (Index i = 0; i < a.dim(0); ++i)
        for (Index j = 0; j < b.dim(1); ++j) {
            Real sum(0.0);
            for (Index k = 0; k < b.dim(0); ++k) sum += a(i, k) * b(k, j);
            c(i, j) = sum;
        }
    return c;
}

// random_array with float32's full mantissa, so that products are not exact.
Array<float> full_mantissa(const Shape& shape, std::string_view name) {
    Array<float> x(shape);
    const RandomTensor random{5, tensor_id(name)};
    for (Index i = 0; i < x.size(); ++i)
        x[i] = bell_sample(random, bell_constant(1.0), static_cast<std::uint64_t>(i));
    return x;
}

}  // namespace

TEST_CASE_TEMPLATE("matmul equals the plain triple loop bit for bit", P, Exact, Deployed) {
    for (const auto& [M, K, N] : sizes) {
        const auto a = as_tensor<P>(full_mantissa({M, K}, "a"));
        const auto b = as_tensor<P>(full_mantissa({K, N}, "b"));
        const auto c = matmul(a.matrix(), b.matrix());
        CHECK((c.array() == plain_product(a, b).array()).all());
        CHECK((matmul(a, Weight("b", full_mantissa({K, N}, "b"))).matrix().array() == c.array()).all());
        // An expression instead of a matrix.
        CHECK((matmul(a.matrix(), Matrix<typename P::Real>(b.matrix().transpose()).transpose()).array() == c.array())
                  .all());
    }
}

TEST_CASE_TEMPLATE("a row of a product does not depend on the other rows", P, Exact, Deployed) {
    const auto a = as_tensor<P>(full_mantissa({9, 77}, "a"));
    const Weight w("b", full_mantissa({77, 21}, "b"));
    const auto all = matmul(a, w);
    for (Index i = 0; i < 9; ++i) {
        Tensor<P> row({1, 77});
        row.row(0) = a.row(i);
        CHECK((matmul(row, w).row(0) == all.row(i)).all());
    }
}

TEST_CASE("the same bits from every compiler and CPU") {
    const auto a = as_tensor<Deployed>(full_mantissa({13, 301}, "a"));
    const auto b = as_tensor<Deployed>(full_mantissa({301, 29}, "b"));
    const auto c = matmul(a.matrix(), b.matrix());
    std::uint64_t hash = 0xcbf29ce484222325;
    for (Index i = 0; i < c.size(); ++i) hash = (hash ^ std::bit_cast<std::uint32_t>(c.data()[i])) * 0x100000001b3;
    CHECK(hash == 15407513131978091831ULL);
}

TEST_CASE("a bounded product has the exact value's bits and holds the float32 result in any order") {
    for (const double cancelling : {0.0, 1.0})
        for (const Index K : {1, 16, 777}) {
            Array<float> a_numbers = full_mantissa({3, K}, "a");
            const Array<float> b_numbers = full_mantissa({K, 5}, "b");
            // Second halves that nearly cancel the first.
            if (cancelling > 0.0)
                for (Index i = 0; i < 3; ++i)
                    for (Index k = 0; k + 1 < K; k += 2)
                        a_numbers(i, k + 1) = -a_numbers(i, k) * b_numbers(k, 0) /
                                              (b_numbers(k + 1, 0) == 0.0F ? 1.0F : b_numbers(k + 1, 0));
            const auto exact = matmul(as_tensor<Exact>(a_numbers).matrix(), as_tensor<Exact>(b_numbers).matrix());
            const auto deployed =
                matmul(as_tensor<Deployed>(a_numbers).matrix(), as_tensor<Deployed>(b_numbers).matrix());
            const auto bounded = matmul(as_tensor<Bounds>(a_numbers).matrix(), as_tensor<Bounds>(b_numbers).matrix());
            for (Index i = 0; i < 3; ++i)
                for (Index j = 0; j < 5; ++j) {
                    CHECK(bounded(i, j).value == exact(i, j));
                    CHECK(std::fabs(static_cast<double>(deployed(i, j)) - exact(i, j)) <= bounded(i, j).error.exact);
                    // The other way round, and in pairs.
                    float descending = 0.0F;
                    for (Index k = K; k-- > 0;) descending += a_numbers(i, k) * b_numbers(k, j);
                    float even = 0.0F;
                    float odd = 0.0F;
                    for (Index k = 0; k < K; ++k) (k % 2 == 0 ? even : odd) += a_numbers(i, k) * b_numbers(k, j);
                    for (const float other : {descending, even + odd})
                        CHECK(std::fabs(static_cast<double>(deployed(i, j) - other)) <= bounded(i, j).error.deployed);
                }
        }
}

TEST_CASE("sizes that do not fit are refused by a sentence") {
    const auto a = random_tensor<Exact>({2, 3}, "a");
    CHECK_THROWS_WITH_AS(matmul(a.matrix(), a.matrix()), "matmul: the inner sizes differ, 3 and 2", Refusal);
    CHECK_THROWS_WITH_AS(matmul(a, random_weight({4, 5}, "W", 1)),
                         "matmul: a row of 3 numbers cannot multiply W with 4 rows", Refusal);
}
