// Numbers that know their error: whatever float32 makes of perturbed operands lies within it.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "reference/attention/quantize.h"
#include "reference/numerics/philox.h"
#include "reference/numerics/precision.h"

using namespace dsa;

namespace {

using B = Bounded;

double uniform(std::uint64_t i, std::uint32_t stream, double low, double high) {
    return low + (high - low) * (RandomTensor{11, 12}.block(i, stream)[0] * 0x1p-32);
}

// Checks `in_float32` on operands that are off by their errors (to the ends, and in between) against `bounded`.
// Returns the largest share of the bound that was used.
double worst_share(double low, double high, const std::function<B(B, B)>& bounded,
                   const std::function<float(float, float)>& in_float32) {
    double worst = 0.0;
    for (std::uint64_t i = 0; i < 20000; ++i) {
        const auto a = static_cast<float>(uniform(i, 0, low, high));
        const auto b = static_cast<float>(uniform(i, 1, low, high));
        // Operands with an error of up to 2^-6 of their size, and some without any.
        const double error_a = i % 4 == 0 ? 0.0 : std::fabs(a) * uniform(i, 2, 0, 0x1p-6);
        const double error_b = i % 4 == 1 ? 0.0 : std::fabs(b) * uniform(i, 3, 0, 0x1p-6);
        const B result = bounded(B(a, error_a), B(b, error_b));
        float centre = 0.0F;
        for (const double shift : {0.0, -0.999, 0.999, 0.5}) {
            const auto x = static_cast<float>(a + shift * error_a);
            const auto y = static_cast<float>(b - shift * error_b);
            if (std::fabs(x - a) > error_a || std::fabs(y - b) > error_b) continue;  // rounded out of its interval
            const float got = in_float32(x, y);
            if (shift == 0.0) centre = got;
            const double error = std::fabs(static_cast<double>(got) - result.value);
            const auto [bound, between] = result.error;
            CHECK_MESSAGE(error <= bound, "operands ", a, " and ", b);
            CHECK_MESSAGE(std::fabs(static_cast<double>(got) - centre) <= between, "operands ", a, " and ", b);
            if (bound > 0.0 && !std::isinf(bound)) worst = std::max(worst, error / bound);
        }
    }
    return worst;
}

}  // namespace

#define CHECK_OPERATION(low, high, expression)                             \
    do {                                                                   \
        const auto formula = [](auto a, auto b) {                          \
            (void)b;                                                       \
            return expression;                                             \
        };                                                                 \
        const double share = worst_share(low, high, formula, formula);     \
        MESSAGE(#expression, " uses up to ", share, " of its bound");      \
        CHECK(share > 0.1); /* a bound ten times too wide tells nothing */ \
    } while (false)

TEST_CASE("sum, difference, product and quotient") {
    CHECK_OPERATION(-3.0, 3.0, a + b);
    CHECK_OPERATION(-3.0, 3.0, a - b);
    CHECK_OPERATION(-3.0, 3.0, a * b);
    CHECK_OPERATION(0.5, 3.0, a / b);
    CHECK_OPERATION(-3.0, -0.5, a / b);
}

TEST_CASE("elementary functions") {
    CHECK_OPERATION(-8.0, 8.0, exp(a));
    CHECK_OPERATION(0.1, 50.0, log(a));
    CHECK_OPERATION(0.01, 50.0, sqrt(a));
    CHECK_OPERATION(-6.0, 6.0, sigmoid(a));
    CHECK_OPERATION(-6.0, 6.0, silu(a));
    CHECK_OPERATION(-2.0, 2.0, relu(a));
}

TEST_CASE("storing as bf16") {
    const auto store = [](auto a, auto) {
        if constexpr (std::is_same_v<decltype(a), float>)
            return Deployed::bf16(a);
        else
            return Bounds::bf16(a);
    };
    const double share = worst_share(-3.0, 3.0, store, store);
    CHECK(share > 0.9);
    // An operand without error is stored alike by everyone.
    CHECK(Bounds::bf16(B(1.2345)).error.deployed == 0.0);
}

TEST_CASE("storing as e4m3, subnormals included") {
    const double scale = 0.01;
    const auto store = [scale](auto a, auto) {
        if constexpr (std::is_same_v<decltype(a), float>)
            return Deployed::e4m3(a, static_cast<float>(scale)) * static_cast<float>(scale);
        else
            return Bounds::e4m3(a, B(scale)) * B(1.0);
    };
    CHECK(worst_share(-4.0, 4.0, store, store) > 0.9);
    CHECK(worst_share(-0.0003, 0.0003, store, store) > 0.5);
}

TEST_CASE("a bound that is too narrow would be noticed") {
    // The same check with bf16's unit halved: the test itself must fail somewhere.
    bool noticed = false;
    for (std::uint64_t i = 0; i < 20000; ++i) {
        const double x = uniform(i, 0, 1.0, 2.0);
        noticed = noticed || std::fabs(through_bfloat16(static_cast<float>(x)) - x) > 0.5 * bfloat16_unit * x;
    }
    CHECK(noticed);
}

TEST_CASE("edges") {
    const double infinity = std::numeric_limits<double>::infinity();
    CHECK(std::isinf((B(1.0) / B(0.5, 0.6)).error.exact));  // the divisor may be zero
    CHECK((B(infinity) + B(1.0)).error.exact == 0.0);
    CHECK((B(-infinity) * B(2.0)).value == -infinity);
    CHECK(std::isinf((B(0.0) * B(1.0, infinity)).error.exact));  // and not NaN
    CHECK(relu(B(-1.0, 0.5)).error.exact == 0.0);                // zero for certain
    CHECK(relu(B(-1.0, 1.5)).error.exact == 1.5);
    CHECK(exp(B(-infinity)).error.exact == 0.0);
    CHECK(std::isinf(log(B(0.1, 0.2)).error.exact));
    CHECK((B(1.0) < B(2.0)));
    CHECK(abs(B(-3.0, 0.1)).value == 3.0);
}
