// exp, log, sin and cos: within one unit in the last place, and the same bits everywhere.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/numerics/elementary.h"
#include "reference/numerics/philox.h"

using namespace dsa;

namespace {

// |got - want| in units of the last place of a double near `want`. want has 64 significant bits or more.
double units(double got, long double want) {
    const double near = std::fabs(static_cast<double>(want));
    const double unit = std::max(std::nextafter(near, INFINITY) - near, std::numeric_limits<double>::denorm_min());
    return static_cast<double>(std::fabs(static_cast<long double>(got) - want) / static_cast<long double>(unit));
}

double uniform(std::uint64_t i, double low, double high) {
    const auto block = RandomTensor{7, 9}.block(i);
    return low + (high - low) * (block[0] + block[1] * 0x1p-32) * 0x1p-32;
}

struct Worst {
    double of = 0.0;
    void see(double x) {
        if (!(x <= of)) of = x;  // NaN counts
    }
};

}  // namespace

TEST_CASE("exp is within one unit, down to subnormal results") {
    Worst worst;
    for (std::uint64_t i = 0; i < 400000; ++i) {
        for (const double x : {uniform(i, -1, 1), uniform(i, -30, 30), uniform(i, -745, 709)})
            worst.see(units(elementary::exp(x), std::exp(static_cast<long double>(x))));
    }
    MESSAGE("worst error of exp: ", worst.of, " units");
    CHECK(worst.of <= 1.0);
    CHECK(elementary::exp(0.0) == 1.0);
    CHECK(elementary::exp(-INFINITY) == 0.0);
    CHECK(elementary::exp(INFINITY) == INFINITY);
    CHECK(elementary::exp(1000.0) == INFINITY);
    CHECK(std::isnan(elementary::exp(NAN)));
}

TEST_CASE("log is within one unit, near 1 too") {
    Worst worst;
    for (std::uint64_t i = 0; i < 400000; ++i)
        for (const double x : {uniform(i, 0.5, 2), uniform(i, 1 - 1e-6, 1 + 1e-6), std::exp(uniform(i, -700, 700))})
            worst.see(units(elementary::log(x), std::log(static_cast<long double>(x))));
    MESSAGE("worst error of log: ", worst.of, " units");
    CHECK(worst.of <= 1.0);
    CHECK(elementary::log(1.0) == 0.0);
    CHECK(elementary::log(0.0) == -INFINITY);
    CHECK(elementary::log(INFINITY) == INFINITY);
    CHECK(std::isnan(elementary::log(-1.0)));
}

TEST_CASE("sin and cos are within one unit up to the largest position") {
    Worst worst;
    const auto check = [&](double x) {
        const auto [sine, cosine] = elementary::sin_cos(x);
        worst.see(units(sine, std::sin(static_cast<long double>(x))));
        worst.see(units(cosine, std::cos(static_cast<long double>(x))));
    };
    for (std::uint64_t i = 0; i < 300000; ++i) {
        check(uniform(i, -4, 4));
        check(uniform(i, 0, 170000));
        check(std::floor(uniform(i, 0, 4194304)));  // positions times a frequency of 1
    }
    MESSAGE("worst error of sin and cos: ", worst.of, " units");
    CHECK(worst.of <= 1.0);
    CHECK(std::isnan(elementary::sin_cos(1e9).first));
}

TEST_CASE("the same bits from every compiler and CPU") {
    // FNV-1a over the bits of results. The literals were made by g++ 12 on x86-64.
    std::uint64_t hash = 0xcbf29ce484222325;
    const auto add = [&](double x) { hash = (hash ^ std::bit_cast<std::uint64_t>(x)) * 0x100000001b3; };
    for (std::uint64_t i = 0; i < 20000; ++i) {
        add(elementary::exp(uniform(i, -700, 700)));
        add(elementary::log(uniform(i, 0, 1e6)));
        add(elementary::sin_cos(uniform(i, 0, 2e5)).first);
        add(elementary::sin_cos(uniform(i, 0, 2e5)).second);
    }
    CHECK(hash == 10412940892696018685ULL);
}
