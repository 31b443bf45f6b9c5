// exp, log, sin and cos made of IEEE additions, multiplications and divisions only.
//
// Why not <cmath>: the C library may answer differently by its version and by the CPU it finds at
// run time (glibc picks FMA variants), in the last bit. These give the same bits everywhere,
// and lie within one unit in the last place (tests/reference/test_elementary.cpp), so the goldens of
// the exact tier can be compared by hash.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

namespace dsa::elementary {

inline constexpr double ln2 = 0x1.62e42fefa39efp-1;

// 2^exponent * x with a single rounding; exponents beyond double's range are taken in two steps.
inline double scale_by_power_of_two(double x, int exponent) {
    const auto power = [](int e) { return std::bit_cast<double>(static_cast<std::uint64_t>(e + 1023) << 52); };
    if (exponent > 1023) return x * power(1023) * power(exponent - 1023);
    if (exponent < -1022) return x * power(exponent + 54) * 0x1p-54;
    return x * power(exponent);
}

// exp(x) = 2^n exp(r), |r| <= ln2 / 2; exp(r) by its Taylor series to r^13 (next term below 2^-57).
inline double exp(double x) {
    if (x != x) return x;
    if (x > 709.79) return std::numeric_limits<double>::infinity();
    if (x < -745.14) return 0.0;
    constexpr double log2_e = 0x1.71547652b82fep0;
    constexpr double ln2_high = 0x1.62e42feep-1;  // 33 bits: n * ln2_high is exact
    constexpr double ln2_low = 0x1.a39ef35793c76p-33;
    const double n = std::nearbyint(x * log2_e);
    const double r_high = x - n * ln2_high;
    const double r_low = n * ln2_low;
    const double r = r_high - r_low;
    double series = 1.0 / 6227020800.0;
    series = series * r + 1.0 / 479001600.0;
    series = series * r + 1.0 / 39916800.0;
    series = series * r + 1.0 / 3628800.0;
    series = series * r + 1.0 / 362880.0;
    series = series * r + 1.0 / 40320.0;
    series = series * r + 1.0 / 5040.0;
    series = series * r + 1.0 / 720.0;
    series = series * r + 1.0 / 120.0;
    series = series * r + 1.0 / 24.0;
    series = series * r + 1.0 / 6.0;
    series = series * r + 0.5;
    // 1 + r + r^2 series: the part of r that was rounded away is put back with the small terms.
    const double r_rounding = (r_high - r) - r_low;
    return scale_by_power_of_two(1.0 + (r + (r * r * series + r_rounding)), static_cast<int>(n));
}

// log(x) = n ln2 + log(m), m in [sqrt(1/2), sqrt(2)); log(m) = 2 atanh(f), f = (m - 1) / (m + 1).
inline double log(double x) {
    if (x != x || x < 0.0) return std::numeric_limits<double>::quiet_NaN();
    if (x == 0.0) return -std::numeric_limits<double>::infinity();
    if (std::isinf(x)) return x;
    int n = 0;
    double m = std::frexp(x, &n);  // exact: m in [1/2, 1)
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2.0;
        --n;
    }
    const double d = m - 1.0;  // exact
    const double f = d / (2.0 + d);
    const double z = f * f;
    double series = 2.0 / 23.0;
    for (int odd = 21; odd >= 3; odd -= 2) series = series * z + 2.0 / odd;
    // 2 f = d - d^2/2 + f d^2/2 exactly; writing it so keeps d, which is exact, out of the rounding.
    const double half_square = 0.5 * d * d;
    constexpr double ln2_high = 0x1.62e42feep-1;
    constexpr double ln2_low = 0x1.a39ef35793c76p-33;
    return n * ln2_high - ((half_square - (f * (half_square + z * series) + n * ln2_low)) - d);
}

// {sin x, cos x} for |x| up to 2^22, beyond any position: x less a multiple of pi/2 taken in three parts.
inline std::pair<double, double> sin_cos(double x) {
    if (!(std::fabs(x) <= 0x1p22)) {
        const double nan = std::numeric_limits<double>::quiet_NaN();
        return {nan, nan};
    }
    constexpr double two_over_pi = 0x1.45f306dc9c883p-1;
    constexpr double first = 0x1.921fb54p0;          // 27 bits of pi/2: n * first is exact
    constexpr double second = 0x1.10b461p-30;        // the next 25 bits, n * second is exact too
    constexpr double third = 0x1.a62633145c06ep-58;  // and the rest
    const double n = std::nearbyint(x * two_over_pi);
    const double a = x - n * first;
    const double b = n * second;
    const double c = a - b;
    const double c_rounding = (a - c) - b;
    const double r = c - (n * third - c_rounding);
    const double r_rounding = (c - r) - (n * third - c_rounding);
    const double z = r * r;
    double s = -1.0 / 121645100408832000.0;
    s = s * z + 1.0 / 355687428096000.0;
    s = s * z - 1.0 / 1307674368000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    const double sine = r + (r * z * s + r_rounding * (1.0 - 0.5 * z));
    double k = 1.0 / 2432902008176640000.0;
    k = k * z - 1.0 / 6402373705728000.0;
    k = k * z + 1.0 / 20922789888000.0;
    k = k * z - 1.0 / 87178291200.0;
    k = k * z + 1.0 / 479001600.0;
    k = k * z - 1.0 / 3628800.0;
    k = k * z + 1.0 / 40320.0;
    k = k * z - 1.0 / 720.0;
    k = k * z + 1.0 / 24.0;
    const double half_z = 0.5 * z;
    const double one_less = 1.0 - half_z;
    const double cosine = one_less + (((1.0 - one_less) - half_z) + (z * z * k - r * r_rounding));
    switch (static_cast<long long>(n) & 3) {
        case 0: return {sine, cosine};
        case 1: return {cosine, -sine};
        case 2: return {-sine, -cosine};
        default: return {-cosine, sine};
    }
}

}  // namespace dsa::elementary
