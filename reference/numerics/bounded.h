// A number that knows how far off a low-precision computation of it may be.
//
// `value` is computed in float64 and is the exact tier's value, bit for bit. `error` bounds how far the
// same formula lands from it when it is computed in float32 with operands that are off by their own
// errors: the first-order rounding analysis of Higham, "Accuracy and Stability of Numerical
// Algorithms", section 2.2: fl(a op b) = (a op b)(1 + d), |d| <= u. Running a formula on these numbers
// derives its bounds; there is no second formula that could disagree with the first.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <limits>

#include "reference/numerics/elementary.h"

namespace dsa {

inline constexpr double float32_unit = 0x1p-24;  // half a step, relative: round to nearest
// bf16 keeps 8 significant bits, so numbers lie 2^-7 apart at 1 and half a step is 2^-8.
inline constexpr double bfloat16_unit = 0x1p-8;
inline constexpr double smallest_normal_float32 = 0x1p-126;  // below it hardware may flush to zero

// How far off a number may be, by what it is compared with.
struct Errors {
    double exact = 0.0;  // a deployed result against the exact one: every rounding counts once
    double deployed =
        0.0;  // two deployed results against each other: the same roundings happen in both, but the
              // order of a sum may differ, and where it does a later rounding may fall to the other side
};

// f for either comparison: {f(a.exact, b.exact, ...), f(a.deployed, b.deployed, ...)}
template <class F, class... E>
Errors each(F f, const E&... errors) {
    return {f(errors.exact...), f(errors.deployed...)};
}

struct Bounded {
    double value = 0.0;
    Errors error;

    // Of float32's unit. Two results may err in opposite directions.
    static constexpr Errors unit{float32_unit, 2 * float32_unit};

    Bounded() = default;
    Bounded(double exact_value) : value(exact_value) {}  // NOLINT(google-explicit-constructor): a known number
    Bounded(double value_, double error_) : value(value_), error{error_, error_} {}
    Bounded(double value_, Errors error_) : value(value_), error(error_) {}

    // `value` after one more float32 rounding. Infinities are exact: there is nothing to round. An error that
    // is no number (0 times infinity) is one about which nothing is known.
    static Bounded rounded(double value, Errors error) {
        if (std::isinf(value)) return {value, 0.0};
        // fl(x) = x (1 + d) + e: near float32's end numbers may be flushed to zero.
        const double flushed = value != 0.0 && std::fabs(value) < 0x1p-100 ? smallest_normal_float32 : 0.0;
        const auto one_more = [&](double e, double u) {
            if (std::isnan(e)) return std::numeric_limits<double>::infinity();
            return e + u * (std::fabs(value) + e) + flushed;
        };
        return {value, each(one_more, error, unit)};
    }

    friend Bounded operator+(Bounded a, Bounded b) { return rounded(a.value + b.value, sum(a.error, b.error)); }
    friend Bounded operator-(Bounded a, Bounded b) { return rounded(a.value - b.value, sum(a.error, b.error)); }
    friend Bounded operator*(Bounded a, Bounded b) {
        const auto of_product = [&](double e_a, double e_b) {
            return std::fabs(a.value) * e_b + e_a * std::fabs(b.value) + e_a * e_b;
        };
        return rounded(a.value * b.value, each(of_product, a.error, b.error));
    }
    friend Bounded operator/(Bounded a, Bounded b) {
        const double quotient = a.value / b.value;
        const auto of_quotient = [&](double e_a, double e_b) {
            // The divisor may be as small as |b| - error; where that reaches zero nothing can be promised.
            const double least = std::fabs(b.value) - e_b;
            const double error =
                least > 0.0 ? (e_a + std::fabs(quotient) * e_b) / least : std::numeric_limits<double>::infinity();
            // A divisor beyond float32 is infinite there, and the quotient 0.
            const bool vanishes = std::fabs(b.value) + e_b > std::numeric_limits<float>::max();
            return vanishes ? error + std::fabs(quotient) : error;
        };
        return rounded(quotient, each(of_quotient, a.error, b.error));
    }
    friend Bounded operator-(Bounded a) { return {-a.value, a.error}; }
    Bounded& operator+=(Bounded b) { return *this = *this + b; }
    Bounded& operator-=(Bounded b) { return *this = *this - b; }
    Bounded& operator*=(Bounded b) { return *this = *this * b; }
    Bounded& operator/=(Bounded b) { return *this = *this / b; }

    // Comparisons look at values: which way a formula branches is the exact tier's business.
    friend bool operator<(Bounded a, Bounded b) { return a.value < b.value; }
    friend bool operator>(Bounded a, Bounded b) { return a.value > b.value; }
    friend bool operator<=(Bounded a, Bounded b) { return a.value <= b.value; }
    friend bool operator>=(Bounded a, Bounded b) { return a.value >= b.value; }
    friend bool operator==(Bounded a, Bounded b) { return a.value == b.value; }
    friend bool operator!=(Bounded a, Bounded b) { return a.value != b.value; }

   private:
    static Errors sum(Errors a, Errors b) { return {a.exact + b.exact, a.deployed + b.deployed}; }
};

// Each function's error: the derivative times the operand's error, plus what a float32 implementation
// of the function itself may lose, `function_units` float32 units. CUDA's ex2.approx and lg2.approx lose
// two units (PTX ISA 9.0, ex2, lg2), and the change of base as much again.
inline constexpr double function_units = 4.0;

inline Bounded exp(Bounded x) {
    const double value = elementary::exp(x.value);
    if (value == 0.0 && std::isinf(x.value)) return {value, 0.0};
    return {value, each(
                       [&](double error, double unit) {
                           // Scaling the argument by log2 e rounds |x| once more; exp(e) - 1 bounds both sides.
                           const double shift = error + unit * std::fabs(x.value);
                           const double growth = elementary::exp(shift) - 1.0;
                           const double own = function_units * unit * value;
                           return value * growth + own + smallest_normal_float32;
                       },
                       x.error, Bounded::unit)};
}

inline Bounded log(Bounded x) {
    const double value = elementary::log(x.value);
    if (std::isinf(value)) return {value, 0.0};
    return {value, each(
                       [&](double error, double unit) {
                           const double least = x.value - error;
                           const double slope_error =
                               least > 0.0 ? error / least : std::numeric_limits<double>::infinity();
                           // lg2.approx is absolutely, not relatively, accurate near 1.
                           return slope_error + function_units * unit * (std::fabs(value) + 1.0);
                       },
                       x.error, Bounded::unit)};
}

inline Bounded sqrt(Bounded x) {
    const double value = std::sqrt(x.value);
    return {value, each(
                       [&](double error, double unit) {
                           const double least = x.value - error;
                           const double of_operand =
                               least > 0.0 ? error / (2.0 * std::sqrt(least)) : std::sqrt(x.value + error);
                           return of_operand + function_units * unit * value;
                       },
                       x.error, Bounded::unit)};
}

inline Bounded abs(Bounded x) { return {std::fabs(x.value), x.error}; }

// Neither is steep, which the composition of their parts would not know: |sigmoid'| <= 1/4, |silu'| < 1.1.
inline Bounded sigmoid(Bounded x) {
    const double value = 1.0 / (1.0 + elementary::exp(-x.value));
    return {value, each(
                       [&](double error, double unit) {
                           // One exp, whose argument's rounding moves it by |x| u, one addition and one division.
                           const double own = (std::fabs(x.value) + function_units + 2.0) * unit * value;
                           return 0.25 * error + own + smallest_normal_float32;
                       },
                       x.error, Bounded::unit)};
}

inline Bounded silu(Bounded x) {
    const double value = x.value * (1.0 / (1.0 + elementary::exp(-x.value)));
    return {value, each(
                       [&](double error, double unit) {
                           const double own = (std::fabs(x.value) + function_units + 3.0) * unit * std::fabs(value);
                           return 1.1 * error + own + smallest_normal_float32;
                       },
                       x.error, Bounded::unit)};
}

// max(x, 0): where even the error cannot lift x above zero, the result is zero for certain.
inline Bounded relu(Bounded x) {
    const auto lifted = [&](double error) { return x.value + error <= 0.0 ? 0.0 : error; };
    return {x.value > 0.0 ? x.value : 0.0, each(lifted, x.error)};
}

}  // namespace dsa

template <>
struct Eigen::NumTraits<dsa::Bounded> : Eigen::NumTraits<double> {
    using Real = dsa::Bounded;
    using NonInteger = Real;
    using Nested = Real;
    enum {
        IsComplex = 0,
        IsInteger = 0,
        IsSigned = 1,
        RequireInitialization = 1,
        ReadCost = 2,
        AddCost = 4,
        MulCost = 8
    };
};
