// The precision policy: one formula, several tiers.
//
// Every formula is a template over a tier P and computes with P::Real. A tier decides what happens at the
// few places where a deployed implementation rounds or quantises; the formula names those places and
// nothing else. spec section 8; docs/08-precision-and-bounds.md.
//
//   tier          Real               at a store to bf16 or e4m3
//   Exact         double             nothing: what the mathematics says
//   Deployed      float              rounds, as a correct low-precision kernel does
//   Bounds        value and errors   value as Exact; one error grows by what Deployed may lose, the other by
//                                    what two correct kernels may differ in
//   ComplexStep   complex<double>    nothing: an imaginary part carries a derivative
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <tuple>
#include <utility>

#include "reference/numerics/array.h"
#include "reference/numerics/bfloat16.h"
#include "reference/numerics/bounded.h"
#include "reference/numerics/elementary.h"
#include "reference/numerics/float8.h"

namespace dsa {

struct Exact {
    using Real = double;
    static constexpr bool quantises = false;

    // A known number (an angle's frequency, a scale) as this tier holds it.
    static double constant(double x) { return x; }
    // A value stored as bf16 and read back.
    static double bf16(double x) { return x; }
    // A value rounded to bf16 after scaling by a factor that each implementation chooses.
    static double bf16_at_any_scale(double x) { return x; }
    // A value stored as e4m3 in units of `scale`: the stored number, to be multiplied by `scale` when read.
    static double e4m3(double x, double /*scale*/) { return x; }
    // The shift that softmax subtracts: it cancels, so its own error does not matter.
    static double shift(double x) { return x; }
};

struct Deployed {
    using Real = float;
    static constexpr bool quantises = true;

    static float constant(double x) { return static_cast<float>(x); }
    static float bf16(float x) { return through_bfloat16(x); }
    static float bf16_at_any_scale(float x) { return through_bfloat16(x); }
    static float e4m3(float x, float scale) { return to_float(to_e4m3(x / scale)); }
    static float shift(float x) { return x; }
};

struct Bounds {
    using Real = Bounded;
    static constexpr bool quantises = false;

    static Real constant(double x) {
        return {x, each([x](double unit) { return unit * std::fabs(x); }, Real::unit)};
    }

    static Real bf16(Real x) {
        // Half the smallest subnormal, 2^-134, takes the relative error's place near zero.
        return stored(x, bfloat16_unit, x.value == 0.0 ? Errors{} : Errors{0x1p-134, 0x1p-134});
    }
    static Real bf16_at_any_scale(Real x) {
        // Scales that differ between implementations make the roundings independent: both count.
        const auto half_steps = [&x](double error, double times) {
            return error + times * (bfloat16_unit * (std::fabs(x.value) + error));
        };
        return {x.value, each(half_steps, x.error, Errors{1, 2})};
    }
    // e4m3's relative error is 2^-4, or half a subnormal step times the scale near zero. The value stays
    // unscaled, as in Exact; the error is that of the stored number times its scale.
    static Real e4m3(Real x, Real scale) {
        const auto subnormal = [&](double error_of_scale) {
            return x.value == 0.0 ? 0.0 : 0.5 * e4m3_smallest_subnormal * (scale.value + error_of_scale);
        };
        return stored(x, e4m3_relative_rounding, each(subnormal, scale.error));
    }
    static Real shift(Real x) { return {x.value, 0.0}; }

   private:
    // `relative`: half a step, of a number of size 1; `smallest`: of the smallest numbers.
    static Real stored(Real x, double relative, Errors smallest) {
        if (std::isinf(x.value)) return x;
        const Errors half_step =
            each([&](double error, double least) { return std::max(relative * (std::fabs(x.value) + error), least); },
                 x.error, smallest);
        // Equal operands round equally; unequal ones may round one step apart.
        const Errors e = x.error;
        return {x.value,
                Errors{e.exact + half_step.exact, e.deployed > 0.0 ? e.deployed + 2 * half_step.deployed : 0.0}};
    }
};

// f(x + i h) = f(x) + i h f'(x) + O(h^2): with h = 1e-200 the imaginary part is the derivative to full
// precision (Squire and Trapp, SIAM Review 40(1), 1998). For tests of gradients.
struct ComplexStep {
    using Real = std::complex<double>;
    static constexpr bool quantises = false;

    static Real constant(double x) { return x; }
    static Real bf16(Real x) { return x; }
    static Real bf16_at_any_scale(Real x) { return x; }
    static Real e4m3(Real x, Real /*scale*/) { return x; }
    static Real shift(Real x) { return x.real(); }
};

// The value that decides a branch, a comparison or a rank.
inline double value_of(double x) { return x; }
inline double value_of(float x) { return x; }
inline double value_of(std::complex<double> x) { return x.real(); }
inline double value_of(Bounded x) { return x.value; }

// Elementary functions of each Real. Float32 ones are the float64 ones, rounded: correct to half a unit
// in all but one case in 2^28.
inline double exp(double x) { return elementary::exp(x); }
inline float exp(float x) { return static_cast<float>(elementary::exp(x)); }
inline std::complex<double> exp(std::complex<double> x) {
    const auto [sine, cosine] = elementary::sin_cos(x.imag());
    return elementary::exp(x.real()) * std::complex<double>(cosine, sine);
}
inline double log(double x) { return elementary::log(x); }
inline float log(float x) { return static_cast<float>(elementary::log(x)); }
inline std::complex<double> log(std::complex<double> x) { return std::log(x); }
inline double sqrt(double x) { return std::sqrt(x); }
inline float sqrt(float x) { return std::sqrt(x); }
inline std::complex<double> sqrt(std::complex<double> x) { return std::sqrt(x); }
inline double abs(double x) { return std::fabs(x); }
inline float abs(float x) { return std::fabs(x); }
inline double relu(double x) { return x > 0.0 ? x : 0.0; }
inline float relu(float x) { return x > 0.0F ? x : 0.0F; }
inline std::complex<double> relu(std::complex<double> x) { return x.real() > 0.0 ? x : 0.0; }

// {cos x, sin x}
inline std::pair<double, double> cos_sin(double x) {
    const auto [sine, cosine] = elementary::sin_cos(x);
    return {cosine, sine};
}
inline std::pair<float, float> cos_sin(float x) {
    const auto [sine, cosine] = elementary::sin_cos(x);
    return {static_cast<float>(cosine), static_cast<float>(sine)};
}
inline std::pair<std::complex<double>, std::complex<double>> cos_sin(std::complex<double> x) {
    const auto [sine, cosine] = elementary::sin_cos(x.real());
    return {{cosine, -sine * x.imag()}, {sine, cosine * x.imag()}};  // to first order in a tiny imaginary part
}
inline std::pair<Bounded, Bounded> cos_sin(Bounded x) {
    const auto [sine, cosine] = elementary::sin_cos(x.value);
    // Neither function is steeper than 1.
    const Errors error = each([](double e, double u) { return e + function_units * u; }, x.error, Bounded::unit);
    return {{cosine, error}, {sine, error}};
}

template <class Real>
Real sigmoid(Real x) {
    return Real(1.0) / (Real(1.0) + exp(-x));
}

template <class Real>
Real silu(Real x) {
    return x * sigmoid(x);
}

// A tensor computed in tier P. The tier is part of the type: a formula cannot mix two.
template <class P>
class Tensor : public Array<typename P::Real> {
   public:
    using Tier = P;
    using Real = typename P::Real;
    using Array<Real>::Array;
    Tensor() = default;
    explicit Tensor(Array<Real> array) : Array<Real>(std::move(array)) {}
};

// Stores a whole tensor as bf16: one of the places where a deployed implementation rounds.
template <class P>
Tensor<P> stored_as_bf16(Tensor<P> x) {
    for (Index i = 0; i < x.size(); ++i) x[i] = P::bf16(x[i]);
    return x;
}

}  // namespace dsa
