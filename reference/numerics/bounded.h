// A number that knows how far off a low-precision computation of it may be.
//
// `value` is computed in float64 and is the exact tier's value, bit for bit. `error` bounds how far the
// same formula lands from it when it is computed in float32 with operands that are off by their own
// errors: the first-order rounding analysis of Higham, "Accuracy and Stability of Numerical
// Algorithms", section 2.2: fl(a op b) = (a op b)(1 + d), |d| <= u. Running a formula on these numbers
// derives its bound; there is no second formula that could disagree with the first.
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

// What an output is compared with.
enum class Against {
    exact,     // a deployed result against the exact one: every rounding counts once
    deployed,  // two deployed results against each other: the same roundings happen in both, but the
               // order of a sum may differ, and where it does a later rounding may fall to the other side
};

template <Against against>
struct Bounded {
    double value = 0.0;
    double error = 0.0;

    // Two results may err in opposite directions.
    static constexpr double unit = against == Against::exact ? float32_unit : 2 * float32_unit;

    Bounded() = default;
    Bounded(double exact_value) : value(exact_value) {}  // NOLINT(google-explicit-constructor): a known number
    Bounded(double value_, double error_) : value(value_), error(error_) {}

    // `value` after one more float32 rounding. Infinities are exact: there is nothing to round. An error that
    // is no number (0 times infinity) is one about which nothing is known.
    static Bounded rounded(double value, double error) {
        if (std::isinf(value)) return {value, 0.0};
        if (std::isnan(error)) return {value, std::numeric_limits<double>::infinity()};
        // fl(x) = x (1 + d) + e: near float32's end numbers may be flushed to zero.
        const double flushed = value != 0.0 && std::fabs(value) < 0x1p-100 ? smallest_normal_float32 : 0.0;
        return {value, error + unit * (std::fabs(value) + error) + flushed};
    }

    friend Bounded operator+(Bounded a, Bounded b) { return rounded(a.value + b.value, a.error + b.error); }
    friend Bounded operator-(Bounded a, Bounded b) { return rounded(a.value - b.value, a.error + b.error); }
    friend Bounded operator*(Bounded a, Bounded b) {
        return rounded(a.value * b.value,
                       std::fabs(a.value) * b.error + a.error * std::fabs(b.value) + a.error * b.error);
    }
    friend Bounded operator/(Bounded a, Bounded b) {
        const double quotient = a.value / b.value;
        // The divisor may be as small as |b| - error; where that reaches zero nothing can be promised.
        const double least = std::fabs(b.value) - b.error;
        double error =
            least > 0.0 ? (a.error + std::fabs(quotient) * b.error) / least : std::numeric_limits<double>::infinity();
        // A divisor beyond float32 is infinite there, and the quotient 0.
        if (std::fabs(b.value) + b.error > std::numeric_limits<float>::max()) error += std::fabs(quotient);
        return rounded(quotient, error);
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
};

template <class R>
inline constexpr bool is_bounded = false;
template <Against against>
inline constexpr bool is_bounded<Bounded<against>> = true;

// Each function's error: the derivative times the operand's error, plus what a float32 implementation
// of the function itself may lose, `function_units` float32 units. CUDA's ex2.approx and lg2.approx lose
// two units (PTX ISA 9.0, ex2, lg2), and the change of base as much again.
inline constexpr double function_units = 4.0;

template <Against against>
Bounded<against> exp(Bounded<against> x) {
    const double value = elementary::exp(x.value);
    // Scaling the argument by log2 e rounds |x| once more; exp(e) - 1 bounds both sides of the error.
    const double shift = x.error + Bounded<against>::unit * std::fabs(x.value);
    const double growth = elementary::exp(shift) - 1.0;
    const double own = function_units * Bounded<against>::unit * value;
    return {value, value == 0.0 && std::isinf(x.value) ? 0.0 : value * growth + own + smallest_normal_float32};
}

template <Against against>
Bounded<against> log(Bounded<against> x) {
    const double value = elementary::log(x.value);
    const double least = x.value - x.error;
    const double slope_error = least > 0.0 ? x.error / least : std::numeric_limits<double>::infinity();
    // lg2.approx is absolutely, not relatively, accurate near 1.
    const double own = function_units * Bounded<against>::unit * (std::fabs(value) + 1.0);
    return {value, std::isinf(value) ? 0.0 : slope_error + own};
}

template <Against against>
Bounded<against> sqrt(Bounded<against> x) {
    const double value = std::sqrt(x.value);
    const double least = x.value - x.error;
    const double error = least > 0.0 ? x.error / (2.0 * std::sqrt(least)) : std::sqrt(x.value + x.error);
    return {value, error + function_units * Bounded<against>::unit * value};
}

template <Against against>
Bounded<against> abs(Bounded<against> x) {
    return {std::fabs(x.value), x.error};
}

// Neither is steep, which the composition of their parts would not know: |sigmoid'| <= 1/4, |silu'| < 1.1.
template <Against against>
Bounded<against> sigmoid(Bounded<against> x) {
    const double value = 1.0 / (1.0 + elementary::exp(-x.value));
    // One exp, whose argument's rounding moves it by |x| u, one addition and one division.
    const double own = (std::fabs(x.value) + function_units + 2.0) * Bounded<against>::unit * value;
    return {value, 0.25 * x.error + own + smallest_normal_float32};
}

template <Against against>
Bounded<against> silu(Bounded<against> x) {
    const double value = x.value * (1.0 / (1.0 + elementary::exp(-x.value)));
    const double own = (std::fabs(x.value) + function_units + 3.0) * Bounded<against>::unit * std::fabs(value);
    return {value, 1.1 * x.error + own + smallest_normal_float32};
}

// max(x, 0): where even the error cannot lift x above zero, the result is zero for certain.
template <Against against>
Bounded<against> relu(Bounded<against> x) {
    if (x.value + x.error <= 0.0) return {0.0, 0.0};
    return {x.value > 0.0 ? x.value : 0.0, x.error};
}

}  // namespace dsa

template <dsa::Against against>
struct Eigen::NumTraits<dsa::Bounded<against>> : Eigen::NumTraits<double> {
    using Real = dsa::Bounded<against>;
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
