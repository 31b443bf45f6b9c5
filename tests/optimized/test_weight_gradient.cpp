// Is y = x^T dy right beyond one tile of it and one step of tokens, and for tokens in groups? Small whole numbers,
// whose sums are exact in any order.
#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include "optimized/weight_gradient/weight_gradient.h"

using namespace dsa;

namespace {

bf16 number(std::int64_t i, int factor) {
    const float x = static_cast<float>(i * factor % 7 - 3);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    return {static_cast<std::uint16_t>(bits >> 16)};
}
float value(bf16 x) {
    const std::uint32_t bits = std::uint32_t{x.bits} << 16;
    float y = 0.0F;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

}  // namespace

TEST_CASE("x^T dy of groups of tokens, at both levels") {
    constexpr std::int64_t tokens = 50, rows = 77, M = 71, N = 66;
    const std::vector<std::int32_t> first_row{0, 40, 40, 77};  // the second matrix has no token
    std::vector<std::int32_t> row_of;
    std::vector<bf16> x, dy;
    for (std::int64_t r = 0; r < rows; ++r) row_of.push_back(static_cast<std::int32_t>(r * 13 % tokens));
    for (std::int64_t i = 0; i < tokens * M; ++i) x.push_back(number(i, 3));
    for (std::int64_t i = 0; i < rows * N; ++i) dy.push_back(number(i, 5));
    for (const bool grouped : {true, false})
        for (const int level : {1, 2}) {
            const std::size_t heads = grouped ? 3 : 1;
            std::vector<float> y(heads * M * N, -1.0F);
            WeightGradient call{
                .x = x.data(), .dy = dy.data(), .y = y.data(), .rows = grouped ? rows : tokens, .M = M, .N = N};
            if (grouped) {
                call.heads = 3;
                call.first_row = first_row.data();
                call.row_of = row_of.data();
            }
            weight_gradient(call, level);
            int wrong = 0;
            for (std::size_t h = 0; h < heads; ++h)
                for (std::int64_t m = 0; m < M; ++m)
                    for (std::int64_t n = 0; n < N; ++n) {
                        float sum = 0.0F;
                        for (std::int64_t r = grouped ? first_row[h] : 0; r < (grouped ? first_row[h + 1] : tokens);
                             ++r)
                            sum += value(x[(grouped ? row_of[r] : r) * M + m]) * value(dy[r * N + n]);
                        wrong += y[(h * M + m) * N + n] == sum ? 0 : 1;
                    }
            CHECK(wrong == 0);
        }
}

TEST_CASE("x^T dy of float32 dy, which no level rounds") {
    constexpr std::int64_t tokens = 35, M = 33, N = 19;
    std::vector<bf16> x;
    std::vector<float> dy;
    for (std::int64_t i = 0; i < tokens * M; ++i) x.push_back(number(i, 3));
    for (std::int64_t i = 0; i < tokens * N; ++i) dy.push_back(value(number(i, 5)) + 0x1p-12F);  // no bf16 number
    for (const int level : {1, 2}) {
        std::vector<float> y(M * N, -1.0F);
        WeightGradient call{.x = x.data(), .dy = nullptr, .y = y.data(), .rows = tokens, .M = M, .N = N};
        call.dy_float32 = dy.data();
        weight_gradient(call, level);
        int wrong = 0;
        for (std::int64_t m = 0; m < M; ++m)
            for (std::int64_t n = 0; n < N; ++n) {
                float sum = 0.0F;  // exact: whole numbers, and whole multiples of 2^-12
                for (std::int64_t r = 0; r < tokens; ++r) sum += value(x[r * M + m]) * dy[r * N + n];
                wrong += y[m * N + n] == sum ? 0 : 1;
            }
        CHECK(wrong == 0);
    }
}
