// Hopper's FP8 sums, made by hand: they lie within the bound that reference/numerics/tensor_cores.h derives, and not
// within float32's.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "reference/attention/indexer.h"
#include "reference/attention/top_k.h"
#include "tests/reference/random_tensors.h"

using namespace dsa;

namespace {

// x without what lies below `step`, towards minus infinity: what shifting a negative number right does.
double cut_off(double x, double step) { return std::floor(x / step) * step; }

// One instruction: 32 products and the accumulator in fixed point.
double one_instruction(double accumulator, const std::vector<double>& products) {
    double largest = std::fabs(accumulator);
    for (const double p : products) largest = std::max(largest, std::fabs(p));
    if (largest == 0.0) return 0.0;
    const double step = std::ldexp(1.0, std::ilogb(largest) - 13);
    double sum = cut_off(accumulator, step);
    for (const double p : products) sum += cut_off(p, step);
    return sum == 0.0
               ? 0.0
               : std::trunc(sum / std::ldexp(1.0, std::ilogb(sum) - 13)) * std::ldexp(1.0, std::ilogb(sum) - 13);
}

template <class Row, class Column>
double hopper_dot(const Row& a, const Column& b) {
    double accumulator = 0.0;
    for (Index first = 0; first < a.size(); first += 32) {
        std::vector<double> products;
        for (Index k = first; k < std::min<Index>(first + 32, a.size()); ++k)
            products.push_back(value_of(a[k]) * value_of(b[k]));
        accumulator = one_instruction(accumulator, products);
    }
    return accumulator;
}

// e4m3 numbers of many sizes; `mean` other than 0 makes sums in which everything has one sign.
template <class P>
Tensor<P> e4m3_numbers(const Shape& shape, const char* name, double mean) {
    Array<float> x = random_array(shape, name, 60.0, mean);
    for (Index i = 0; i < x.size(); ++i) x[i] = to_float(to_e4m3(x[i]));
    return as_tensor<P>(x);
}

}  // namespace

TEST_CASE("Hopper's FP8 sums stay within their bounds, and useful ones") {
    using P = Bounds;
    for (const double mean : {0.0, 30.0, 200.0})
        for (const Index K : {16, 32, 128, 576}) {
            const auto a = e4m3_numbers<P>({40, K}, "a", mean);
            const auto b = e4m3_numbers<P>({50, K}, "b", mean);
            auto c = matmul(a.matrix(), b.matrix().transpose());
            const auto in_float32 = c;
            lose_in_fp8_sums(c, a.matrix(), b.matrix().transpose());
            Errors worst;
            bool beyond_float32 = false;
            for (Index i = 0; i < 40; ++i)
                for (Index j = 0; j < 50; ++j) {
                    const double error = std::fabs(hopper_dot(a.row(i), b.row(j)) - c(i, j).value);
                    const auto [bound, between] = c(i, j).error;
                    CHECK(error <= bound);
                    CHECK(error <= between);
                    worst = {std::max(worst.exact, error / bound), std::max(worst.deployed, error / between)};
                    beyond_float32 = beyond_float32 || error > in_float32(i, j).error.deployed;
                }
            CHECK(beyond_float32);
            // A promise for the worst signs and sizes, at most fifty times what is seen.
            CHECK(worst.exact > 0.02);
            CHECK(worst.deployed > 0.01);
        }
}

TEST_CASE("operands that are off move the sums and what they lose") {
    using P = Bounds;
    auto a = e4m3_numbers<P>({10, 128}, "a", 0.0);
    auto b = e4m3_numbers<P>({10, 128}, "b", 0.0);
    auto off_a = a;
    auto off_b = b;
    for (Index i = 0; i < a.size(); ++i) {
        a[i] = {a[i].value, std::fabs(a[i].value) * 0x1p-5};
        b[i] = {b[i].value, std::fabs(b[i].value) * 0x1p-5};
        off_a[i].value += a[i].error.exact;
        off_b[i].value -= b[i].error.exact;
    }
    auto c = matmul(a.matrix(), b.matrix().transpose());
    lose_in_fp8_sums(c, a.matrix(), b.matrix().transpose());
    for (Index i = 0; i < 10; ++i)
        for (Index j = 0; j < 10; ++j)
            CHECK(std::fabs(hopper_dot(off_a.row(i), off_b.row(j)) - c(i, j).value) <= c(i, j).error.exact);
}

TEST_CASE("only logits asked for with Hopper's sums have the wider bound, and their values are the same") {
    using P = Bounds;
    const auto q = e4m3_numbers<P>({3, 4, 128}, "q", 0.0);
    const auto k = e4m3_numbers<P>({9, 128}, "k", 0.0);
    const auto weights = random_tensor<P>({3, 4}, "w");
    const Tensor<P> ones({9}, 1.0);
    const auto [start, end] = causal_range(3, 9);
    Conventions hopper;
    hopper.fp8_sums = Fp8Sums::hopper;
    const auto narrow = indexer_logits(q, k, ones, weights, start, end, {});
    const auto wide = indexer_logits(q, k, ones, weights, start, end, hopper);
    Index wider = 0;
    for (Index t = 0; t < 3; ++t)
        for (Index s = 0; s < end[t]; ++s) {
            CHECK(narrow(t, s).value == wide(t, s).value);
            CHECK(narrow(t, s).error.exact <= wide(t, s).error.exact);
            CHECK(narrow(t, s).error.deployed <= wide(t, s).error.deployed);
            wider += narrow(t, s).error.exact < wide(t, s).error.exact ? 1 : 0;
        }
    CHECK(wider > 20);  // of 24; where no head says yes there is nothing to lose
}
