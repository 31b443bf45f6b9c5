// The counter-based generator against its authors' known answers, and the bell-shaped samples made from it.
#include <doctest/doctest.h>

#include <cmath>

#include "reference/numerics/philox.h"

using namespace dsa;

TEST_CASE("Philox-4x32-10 gives its published answers") {
    // Random123, tests/kat_vectors, lines "philox4x32 10".
    CHECK(philox({0, 0, 0, 0}, 0) == PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    CHECK(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff) ==
          PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822) ==
          PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("samples have mean 0 and the deviation asked for") {
    const RandomTensor random{1, 2};
    const float constant = bell_constant(3.0);
    const int n = 1000000;
    double sum = 0.0;
    double squares = 0.0;
    for (int i = 0; i < n; ++i) {
        const double x = bell_sample(random, constant, static_cast<std::uint64_t>(i));
        sum += x;
        squares += x * x;
    }
    // Five deviations of the estimates: 3 / sqrt(n) for the mean, 9 sqrt(kurtosis - 1) / sqrt(n), below 9
    // sqrt(2) / sqrt(n), for the variance.
    CHECK(std::fabs(sum / n) <= 5 * 3.0 / std::sqrt(n));
    CHECK(std::fabs(squares / n - 9.0) <= 5 * 9.0 * std::sqrt(2.0 / n));
}

TEST_CASE("a sample is an integer between -262140 and 262140 times one constant") {
    const RandomTensor random{3, 4};
    for (std::uint64_t i = 0; i < 100000; ++i) {
        CHECK(std::abs(random.bell(i)) <= 262140);
        CHECK(bell_sample(random, 0.25F, i) == static_cast<float>(random.bell(i)) * 0.25F);
        CHECK(random.below(10, i) < 10);
    }
}

TEST_CASE("elements, tensors, streams and seeds are told apart, beyond 32 bits too") {
    const RandomTensor random{5, 6};
    CHECK(random.block(7) != random.block(7 + (std::uint64_t{1} << 32)));
    CHECK(random.block(7) != random.block(7, 1));
    CHECK(random.block(7) != RandomTensor{5, 7}.block(7));
    CHECK(random.block(7) != RandomTensor{5 + (std::uint64_t{1} << 32), 6}.block(7));
}
