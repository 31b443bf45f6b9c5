// Is y = x W right for every kind of weight, batch, stride and group, within what float32 sums may be off?
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "optimized/linear/linear.h"
#include "optimized/simulator/numbers.h"

namespace {

using namespace dsa;

float number(float x) { return x; }
float number(bf16 x) { return __uint_as_float(std::uint32_t{x.bits} << 16); }
float number(e4m3 x) { return simulator::number_of_e4m3(x.bits); }

void set(float& x, float value) { x = value; }
void set(bf16& x, float value) { x = {simulator::rounded_to_bf16(value)}; }
void set(e4m3& x, float value) { x = {simulator::rounded_to_e4m3(40.0F * value)}; }

std::mt19937 generator(7);

template <class T>
std::vector<T> normal(std::int64_t count) {
    std::normal_distribution<float> draw;
    std::vector<T> numbers(static_cast<std::size_t>(count));
    for (T& x : numbers) set(x, draw(generator));
    return numbers;
}

std::vector<float> positive(std::int64_t count) {
    std::vector<float> numbers = normal<float>(count);
    for (float& x : numbers) x = std::fabs(x) + 0.1F;
    return numbers;
}

void point_to(Linear& call, const std::vector<float>& x) { call.x_float32 = x.data(); }
void point_to(Linear& call, const std::vector<bf16>& x) { call.x = x.data(); }
void point_to(Linear& call, const std::vector<e4m3>& x) { call.x_e4m3 = x.data(); }
void point_to_w(Linear& call, const std::vector<bf16>& w) { call.w = w.data(); }
void point_to_w(Linear& call, const std::vector<float>& w) { call.w_float32 = w.data(); }
void point_to_w(Linear& call, const std::vector<e4m3>& w) { call.w_e4m3 = w.data(); }

struct Question {
    std::int64_t T, K, N, heads;
    bool transposed;  // W is [N, heads, K], not [K, heads, N]
    bool grouped;     // x is [T, K]; each head takes rows of its own choice, some none
};

// x [T, heads, K] and W [K, heads, N] -> y [rows, heads, N], held against float64. What nobody should write keeps its
// mark.
template <class X, class W>
void check(int level, const Question& q) {
    CAPTURE(level);
    CAPTURE(q.T);
    CAPTURE(q.K);
    CAPTURE(q.N);
    const std::int64_t down = (q.K + 127) / 128;
    const std::int64_t across = (q.N + 127) / 128;
    const auto x = normal<X>(q.T * (q.grouped ? 1 : q.heads) * q.K);
    const auto w = normal<W>(q.K * q.heads * q.N);
    const auto x_scale = positive(q.T * down);
    const auto w_scale = positive(q.heads * down * across);
    Linear call{};
    point_to(call, x);
    point_to_w(call, w);
    call.x_scale = x_scale.data();
    call.w_scale = w_scale.data();
    call.heads = q.heads;
    call.T = q.T;
    call.K = q.K;
    call.N = q.N;
    call.x_row = q.grouped ? q.K : q.heads * q.K;
    call.x_head = q.grouped ? 0 : q.K;
    call.w_k = q.transposed ? 1 : q.heads * q.N;
    call.w_n = q.transposed ? q.heads * q.K : 1;
    call.w_head = q.transposed ? q.K : q.N;
    std::vector<std::int32_t> first_row{0}, row_of;
    if (q.grouped) {
        for (std::int64_t h = 0; h < q.heads; ++h) {
            const auto count = h % 3 == 1 ? 0 : static_cast<std::int64_t>(generator()) % (q.T + 1);
            for (std::int64_t i = 0; i < count; ++i)
                row_of.push_back(static_cast<std::int32_t>(static_cast<std::int64_t>(generator()) % q.T));
            first_row.push_back(static_cast<std::int32_t>(row_of.size()));
        }
        call.first_row = first_row.data();
        call.row_of = row_of.data();
    }
    const std::int64_t rows = q.grouped ? static_cast<std::int64_t>(row_of.size()) : q.T;
    const float mark = -77.0F;
    std::vector<float> y(static_cast<std::size_t>((rows + 1) * q.heads * q.N), mark);
    call.y_float32 = y.data();
    call.y_row = q.grouped ? q.N : q.heads * q.N;
    call.y_head = q.grouped ? 0 : q.N;

    if (level == 3) {
        REQUIRE(linear_level_3_declines(call) == "");
        linear_level_3(call);
    } else if (level == 2) {
        REQUIRE(linear_level_2_declines(call) == "");
        linear_level_2(call);
    } else {
        linear_level_1(call);
    }

    std::int64_t written = 0;
    for (const float value : y) written += value != mark ? 1 : 0;
    CHECK(written == rows * (q.grouped ? 1 : q.heads) * q.N);
    for (std::int64_t h = 0; h < q.heads; ++h) {
        const std::int64_t begin = q.grouped ? first_row[static_cast<std::size_t>(h)] : 0;
        const std::int64_t end = q.grouped ? first_row[static_cast<std::size_t>(h) + 1] : q.T;
        for (std::int64_t row = begin; row < end; ++row) {
            const std::int64_t from = q.grouped ? row_of[static_cast<std::size_t>(row)] : row;
            for (std::int64_t n = 0; n < q.N; ++n) {
                double sum = 0.0;
                double magnitude = 0.0;
                double largest = 0.0;  // that level 3's FP8 products add to, and the numbers that they add
                for (std::int64_t k = 0; k < q.K; ++k) {
                    double product =
                        double{number(x[static_cast<std::size_t>(h * call.x_head + from * call.x_row + k)])} *
                        number(w[static_cast<std::size_t>(h * call.w_head + k * call.w_k + n * call.w_n)]);
                    if (sizeof(W) == 1)
                        product *= double{x_scale[static_cast<std::size_t>(from * down + k / 128)]} *
                                   w_scale[static_cast<std::size_t>((h * down + k / 128) * across + n / 128)];
                    sum += product;
                    magnitude += std::fabs(product);
                    largest = std::max({largest, std::fabs(sum), std::fabs(product)});
                }
                // K additions, and of a product up to 4 roundings (two scales, their product's, its own).
                double bound = static_cast<double>(q.K + 4) * 0x1p-24 * magnitude;
                // wgmma cuts each of 33 numbers 13 bits below the largest of them, for 32 of k at a time.
                if (sizeof(W) == 1 && level == 3)
                    bound += std::ceil(static_cast<double>(q.K) / 32) * 33 * 0x1p-13 * largest;
                const double error =
                    std::fabs(y[static_cast<std::size_t>(h * call.y_head + row * call.y_row + n)] - sum);
                REQUIRE(error <= bound);  // false of NaN
            }
        }
    }
}

}  // namespace

TEST_CASE("bf16 weights, one matrix, sizes that are no multiples of a tile") {
    for (const int level : {1, 2, 3}) {
        check<bf16, bf16>(level, {7, 256, 192, 1, false, false});
        check<bf16, bf16>(level, {70, 40, 72, 1, false, false});
    }
    check<bf16, bf16>(1, {3, 33, 35, 1, false, false});
    check<bf16, bf16>(3, {70, 520, 72, 1, false, false});  // its ring goes round
}

TEST_CASE("a matrix a head, as it lies and transposed: W_uv and W_uk") {
    for (const int level : {1, 2, 3}) {
        check<bf16, bf16>(level, {5, 128, 96, 4, false, false});
        check<bf16, bf16>(level, {67, 128, 96, 3, true, false});
        check<bf16, bf16>(level, {3, 520, 40, 2, true, false});
    }
}

TEST_CASE("so many blocks that level 3 takes its wider tiles") {
    check<bf16, bf16>(3, {65, 72, 200, 132, false, false});
    check<bf16, bf16>(3, {65, 72, 104, 132, true, false});
}

TEST_CASE("few rows, whose sums over k blocks of a cluster share; x in boxes of 8, 16, 32 and 64 rows") {
    for (const bool transposed : {false, true}) {
        check<bf16, bf16>(3, {1, 1096, 40, 1, transposed, false});
        check<bf16, bf16>(3, {9, 520, 72, 1, transposed, false});
        check<bf16, bf16>(3, {17, 136, 136, 2, transposed, false});
        check<bf16, bf16>(3, {64, 72, 64, 1, transposed, false});
        check<bf16, bf16>(3, {1, 520, 72, 2, transposed, true});
        check<bf16, bf16>(3, {6, 136, 200, 7, transposed, true});
        check<bf16, bf16>(3, {40, 136, 72, 3, transposed, true});
    }
}

TEST_CASE("float32 rows, as the gradient of logits, against a matrix that is turned") {
    check<float, bf16>(1, {35, 70, 40, 1, true, false});
    Linear call = packed_linear(nullptr, nullptr, nullptr, 1, 32, 40, nullptr);
    const float x = 0.0F;
    call.x_float32 = &x;
    CHECK(linear_level_2_declines(call) == "the tensor cores round float32 numbers");
    CHECK(linear_level_3_declines(call) == "the tensor cores round float32 numbers");
}

TEST_CASE("float32 weights") { check<bf16, float>(1, {5, 128, 96, 1, false, false}); }

TEST_CASE("e4m3 weights and a scale for 128 x 128, also of less than a block") {
    for (const int level : {1, 2, 3}) {
        check<e4m3, e4m3>(level, {65, 256, 160, 1, false, false});
        check<e4m3, e4m3>(level, {5, 64, 64, 1, false, false});
        if (level < 3) check<e4m3, e4m3>(level, {9, 256, 160, 2, true, false});
    }
}

TEST_CASE("rows in groups, as experts have them") {
    for (const int level : {1, 2}) {
        check<bf16, bf16>(level, {9, 64, 64, 5, false, true});
        check<e4m3, e4m3>(level, {9, 256, 160, 5, false, true});
    }
    for (const bool transposed : {false, true}) {
        check<bf16, bf16>(3, {9, 64, 64, 5, transposed, true});
        check<bf16, bf16>(3, {70, 200, 136, 4, transposed, true});
        check<bf16, bf16>(3, {450, 72, 264, 3, transposed, true});
    }
    check<e4m3, e4m3>(3, {9, 256, 160, 5, false, true});
    check<e4m3, e4m3>(3, {450, 384, 144, 4, false, true});
}

TEST_CASE("level 2 says what it does not take") {
    const auto odd = packed_linear(nullptr, nullptr, nullptr, 1, 33, 40, nullptr);
    CHECK(linear_level_2_declines(odd) == "rows of x and W must begin at, and be of, multiples of 16 bytes");
    Linear strided = packed_linear(nullptr, nullptr, nullptr, 1, 32, 40, nullptr);
    strided.w_n = 2;
    CHECK(linear_level_2_declines(strided) == "k or n must lie side by side in W");
    CHECK(linear_level_3_declines(odd) == "rows of x and W must begin at, and be of, multiples of 16 bytes");
    alignas(16) const bf16 w{};
    Linear grouped = packed_linear(&w, &w, nullptr, 1, 32, 40, nullptr);
    const std::int32_t first_row = 0;
    grouped.first_row = &first_row;
    CHECK(linear_level_3_declines(grouped) == "");
    grouped.heads = 513;
    CHECK(linear_level_3_declines(grouped) == "there may be at most 512 groups of rows; there are 513");
}
