// bf16, e4m3 and ue8m0 against definitions written down here, on every bit pattern and every rounding boundary.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "reference/numerics/bfloat16.h"
#include "reference/numerics/float8.h"
#include "reference/numerics/philox.h"
#include "tests/reference/boundaries.h"

using namespace dsa;

namespace {

bool same(float a, float b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

// The code in `table` (magnitude -> code, ascending) nearest to x; a tie goes to the even code.
int nearest(const std::map<double, int>& table, double x) {
    auto above = table.lower_bound(x);
    if (above == table.end()) return std::prev(above)->second;
    if (above == table.begin() || above->first == x) return above->second;
    const auto below = std::prev(above);
    const double down = x - below->first;
    const double up = above->first - x;
    if (down != up) return down < up ? below->second : above->second;
    return below->second % 2 == 0 ? below->second : above->second;
}

// e4m3's magnitudes by the format's formula, in double.
double e4m3_magnitude(int code) {
    const int exponent = code >> 3;
    const int mantissa = code & 7;
    return exponent == 0 ? mantissa / 8.0 * std::pow(2.0, -6) : (1 + mantissa / 8.0) * std::pow(2.0, exponent - 7);
}

}  // namespace

TEST_CASE("every bf16 pattern is the float32 whose upper half it is, and comes back") {
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        const float x = to_float(bfloat16{static_cast<std::uint16_t>(bits)});
        CHECK_MESSAGE(same(x, from_bits(bits << 16)), bits);
        if (!std::isnan(x)) CHECK_MESSAGE(to_bfloat16(x).bits == bits, bits);
    }
    CHECK(to_bfloat16(std::numeric_limits<float>::quiet_NaN()).bits == 0x7fff);
    CHECK(std::isnan(through_bfloat16(from_bits(0xff800001))));
}

TEST_CASE("float32 rounds to the nearest bf16, ties to even, at every midpoint and beside it") {
    // Between the finite neighbours n and n + 1 (and the last one and infinity).
    for (std::uint32_t bits = 0; bits < 0x7f80; ++bits)
        for (const std::uint32_t sign : {0U, 0x8000U}) {
            const std::uint32_t midpoint = (bits << 16) | 0x8000;
            const auto rounded = [&](std::uint32_t pattern) {
                return to_bfloat16(from_bits(pattern | (sign << 16))).bits;
            };
            CHECK_MESSAGE(rounded(midpoint - 1) == (bits | sign), bits);
            CHECK_MESSAGE(rounded(midpoint) == ((bits + (bits & 1)) | sign), bits);
            CHECK_MESSAGE(rounded(midpoint + 1) == ((bits + 1) | sign), bits);
        }
}

TEST_CASE("every e4m3 pattern has its value, and comes back") {
    for (int bits = 0; bits < 256; ++bits) {
        const float x = to_float(float8_e4m3{static_cast<std::uint8_t>(bits)});
        if ((bits & 0x7f) == 0x7f) {
            CHECK(std::isnan(x));
            continue;
        }
        const auto magnitude = static_cast<float>(e4m3_magnitude(bits & 0x7f));
        CHECK(same(x, bits < 128 ? magnitude : -magnitude));
        CHECK(to_e4m3(x).bits == bits);
    }
}

TEST_CASE("float32 rounds to the nearest e4m3 and saturates") {
    std::map<double, int> table;
    for (int code = 0; code < 0x7f; ++code) table[e4m3_magnitude(code)] = code;
    const auto check = [&](float x) {
        const int expected = nearest(table, std::fabs(static_cast<double>(x))) | (std::signbit(x) ? 0x80 : 0);
        CHECK_MESSAGE(to_e4m3(x).bits == expected, x);
    };
    for_e4m3_boundaries(check);
    const RandomTensor random{42, 1};
    for (std::uint64_t i = 0; i < 300000; ++i) {
        const float x = from_bits(random.block(i)[0]);
        if (!std::isnan(x)) check(x);
    }
    CHECK(to_e4m3(std::numeric_limits<float>::infinity()).bits == 0x7e);
    CHECK(to_e4m3(-std::numeric_limits<float>::infinity()).bits == 0xfe);
    CHECK((to_e4m3(std::numeric_limits<float>::quiet_NaN()).bits & 0x7f) == 0x7f);
}

TEST_CASE("every ue8m0 pattern is its power of two; float32 rounds up to the next") {
    for (int bits = 0; bits < 255; ++bits) {
        const float power = to_float(float8_ue8m0{static_cast<std::uint8_t>(bits)});
        CHECK(static_cast<double>(power) == std::pow(2.0, bits - 127));
        CHECK(to_ue8m0_rounding_up(power).bits == bits);
        if (bits < 254) CHECK(to_ue8m0_rounding_up(std::nextafter(power, INFINITY)).bits == bits + 1);
        if (bits > 0) CHECK(to_ue8m0_rounding_up(std::nextafter(power, 0.0F)).bits == bits);
    }
    CHECK(std::isnan(to_float(float8_ue8m0{255})));
    CHECK(to_ue8m0_rounding_up(0.0F).bits == 0);
    CHECK(to_ue8m0_rounding_up(std::numeric_limits<float>::quiet_NaN()).bits == 255);
    CHECK(to_ue8m0_rounding_up(-1.0F).bits == 255);
}
