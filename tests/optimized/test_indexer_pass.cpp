// Does one pass over queries and keys give what the steps give one after the other, for every size, rope and
// quantiser, and do keys lie where a cache of pages wants them? And is the product of keys and head weights theirs?
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "optimized/indexer_project/op.h"
#include "optimized/layer_norm/op.h"
#include "optimized/simulator/numbers.h"
#include "optimized/support/quantize.cuh"
#include "optimized/support/quotient.cuh"

namespace {

using namespace dsa;

std::mt19937 generator(11);

struct Question {
    std::int64_t T, H_I, D_I;
    int pairs = 32;
    RopeLayout layout = RopeLayout::half_split;
    Quantizer quantizer = Quantizer::deepseek;
    bool ue8m0 = true;
    bool weights_bf16 = true;
};

template <class T>
std::vector<T> sized(std::int64_t count, T value = {}) {
    return std::vector<T>(static_cast<std::size_t>(count), value);
}

std::vector<float> normal(std::int64_t count) {
    std::normal_distribution<float> draw;
    auto numbers = sized<float>(count);
    for (float& x : numbers) x = draw(generator);
    return numbers;
}

// Vectors of n numbers, some with an outlier; the third is 0.
std::vector<bf16> vectors(std::int64_t count, std::int64_t n) {
    const auto numbers = normal(count * n);
    auto rounded = sized<bf16>(count * n);
    for (std::int64_t i = 0; i < count * n; ++i) {
        const float factor = i / n == 2 ? 0.0F : i % 97 == 0 ? 60.0F : 1.0F;
        rounded[static_cast<std::size_t>(i)] = {
            simulator::rounded_to_bf16(factor * numbers[static_cast<std::size_t>(i)])};
    }
    return rounded;
}

struct Outputs {
    std::vector<e4m3> q, k;
    std::vector<float> q_scale, k_scale, weights;
};

struct Inputs {
    explicit Inputs(const Question& of)
        : q(vectors(of.T * of.H_I, of.D_I)),
          k(vectors(of.T, of.D_I)),
          positions(sized<std::int32_t>(of.T)),
          k_norm(normal(of.D_I)),
          k_bias(normal(of.D_I)),
          projected(normal(of.T * of.H_I)) {
        for (auto& p : positions) p = static_cast<std::int32_t>(generator() % 150000);
    }
    std::vector<bf16> q, k;
    std::vector<std::int32_t> positions;
    std::vector<float> k_norm, k_bias, projected;
};

constexpr std::int64_t beyond = 1;  // a vector behind the last, which nobody may write

IndexerProject call_of(const Question& of, const Inputs& in, Outputs& out) {
    const e4m3 mark{0x55};
    out = {sized((of.T * of.H_I + beyond) * of.D_I, mark), sized((of.T + beyond) * of.D_I, mark),
           sized(of.T * of.H_I + beyond, -77.0F), sized(of.T + beyond, -77.0F), in.projected};
    out.weights.push_back(-77.0F);
    IndexerProject call{};
    call.positions = in.positions.data();
    call.k_norm = in.k_norm.data();
    call.k_bias = in.k_bias.data();
    call.q = out.q.data();
    call.k = out.k.data();
    call.q_scale = out.q_scale.data();
    call.k_scale = out.k_scale.data();
    call.weights = out.weights.data();
    call.T = of.T;
    call.H_I = of.H_I;
    call.D_I = of.D_I;
    call.eps = 1e-6F;
    call.factor = 0.03F;
    call.weights_bf16 = of.weights_bf16;
    call.rope = rope_table(RopeParameters{}, 2 * of.pairs);
    call.layout = of.layout;
    call.hadamard = true;
    call.quantizer = of.quantizer;
    call.ue8m0 = of.ue8m0;
    return call;
}

// The steps one after the other: layer_norm and level 1 of what follows products.
void in_steps(const IndexerProject& call, const Inputs& in) {
    IndexerVectors v{};
    v.positions = call.positions;
    v.T = call.T;
    v.D_I = static_cast<int>(call.D_I);
    v.rope = call.rope;
    v.layout = call.layout;
    v.hadamard = call.hadamard;
    v.quantizer = call.quantizer;
    v.ue8m0 = call.ue8m0;
    v.x = in.q.data();
    v.y = call.q;
    v.scale = call.q_scale;
    v.weights = call.weights;
    v.N = call.H_I;
    v.factor = call.factor;
    v.weights_bf16 = call.weights_bf16;
    indexer_vectors_level_1(v);
    auto normed = sized<bf16>(call.T * call.D_I);
    layer_norm_level_1(
        LayerNorm{in.k.data(), call.k_norm, call.k_bias, normed.data(), call.T, call.D_I, call.eps, nullptr});
    v.x = normed.data();
    v.y = call.k;
    v.scale = call.k_scale;
    v.weights = nullptr;
    v.N = 1;
    indexer_vectors_level_1(v);
}

// Sums in another order may move a number to the next bf16, before the transform too, which spreads it: some 2^-11 of
// the largest number. And that may move a number to the next e4m3: a step of it, 1/8.
void check_numbers(const std::vector<e4m3>& got, const std::vector<float>& got_scale, const std::vector<e4m3>& want,
                   const std::vector<float>& want_scale, std::int64_t n) {
    REQUIRE(got.size() == want.size());
    std::int64_t different = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        const std::size_t v = i / static_cast<std::size_t>(n);
        const float a = simulator::number_of_e4m3(got[i].bits) * got_scale[v];
        const float b = simulator::number_of_e4m3(want[i].bits) * want_scale[v];
        different += a == b ? 0 : 1;
        CAPTURE(i);
        REQUIRE(std::fabs(a - b) <= 0.126F * std::fabs(b) + 0x1p-3F * std::fabs(want_scale[v]));  // false of NaN
    }
    CHECK(different <= static_cast<std::int64_t>(got.size() / 100));
}

void check(const Question& of) {
    CAPTURE(of.T);
    CAPTURE(of.H_I);
    CAPTURE(of.D_I);
    const Inputs in(of);
    Outputs got, want;
    const IndexerProject call = call_of(of, in, got);
    REQUIRE(indexer_one_pass_declines(call) == "");
    indexer_one_pass(call, in.q.data(), in.k.data());
    in_steps(call_of(of, in, want), in);
    check_numbers(got.q, got.q_scale, want.q, want.q_scale, of.D_I);
    check_numbers(got.k, got.k_scale, want.k, want.k_scale, of.D_I);
    REQUIRE(got.weights.size() == want.weights.size());
    for (std::size_t i = 0; i < got.weights.size(); ++i) {
        const float factor = got.q_scale[i] / want.q_scale[i];  // 1, but where the largest number moved
        CHECK(std::fabs(got.weights[i] - want.weights[i] * factor) <= 1e-6F * std::fabs(want.weights[i] * factor));
    }
}

}  // namespace

TEST_CASE("heads and tokens that fill no batch") {
    check({.T = 1, .H_I = 64, .D_I = 128});
    check({.T = 3, .H_I = 5, .D_I = 64});
    check({.T = 9, .H_I = 8, .D_I = 128, .weights_bf16 = false});
    check({.T = 67, .H_I = 1, .D_I = 64});
}

TEST_CASE("so many vectors that a warp stays for several batches and tokens") {
    check({.T = 45, .H_I = 13, .D_I = 64});
}

TEST_CASE("both ropes, wherever the other number of a pair is") {
    for (const int pairs : {8, 16, 32})
        for (const RopeLayout layout : {RopeLayout::half_split, RopeLayout::interleaved})
            for (const std::int64_t D_I : {64, 128})
                check({.T = 4, .H_I = 3, .D_I = D_I, .pairs = pairs, .layout = layout});
}

TEST_CASE("each quantiser, vectors of 0 among them") {
    for (const bool ue8m0 : {true, false})
        for (const Quantizer quantizer : {Quantizer::deepseek, Quantizer::flashmla, Quantizer::vllm})
            check({.T = 4, .H_I = 8, .D_I = 128, .quantizer = quantizer, .ue8m0 = ue8m0});
}

TEST_CASE("keys go to their slots of the pages and nowhere else") {
    for (const std::int64_t D_I : {64, 128}) {
        const Question of{.T = 70, .H_I = 2, .D_I = D_I};
        const Inputs in(of);
        Outputs flat, paged;
        indexer_one_pass(call_of(of, in, flat), in.q.data(), in.k.data());
        constexpr std::int64_t pages = 3, page = 64;
        auto slots = sized<std::int32_t>(pages * page);
        std::iota(slots.begin(), slots.end(), 0);
        std::shuffle(slots.begin(), slots.end(), generator);
        const std::int64_t page_bytes = page * (D_I + 4);
        auto want = sized<std::uint8_t>(pages * page_bytes, 0xaa);
        auto got = want;
        IndexerProject call = call_of(of, in, paged);
        call.k = nullptr;
        call.k_scale = nullptr;
        call.key_pages = got.data();
        call.key_slots = slots.data();
        indexer_one_pass(call, in.q.data(), in.k.data());
        for (std::int64_t t = 0; t < of.T; ++t) {
            const std::int64_t slot = slots[static_cast<std::size_t>(t)];
            std::uint8_t* at = want.data() + slot / page * page_bytes;
            std::memcpy(at + slot % page * D_I, &flat.k[static_cast<std::size_t>(t * D_I)],
                        static_cast<std::size_t>(D_I));
            std::memcpy(at + page * D_I + slot % page * 4, &flat.k_scale[static_cast<std::size_t>(t)], 4);
        }
        CHECK(got == want);
        CHECK(std::memcmp(paged.q.data(), flat.q.data(), flat.q.size()) == 0);
    }
}

TEST_CASE("keys' and head weights' products in one: rows, heads and k that fill no tile") {
    struct Sizes {
        std::int64_t T, D, H_I, D_I;
    };
    for (const Sizes of : {Sizes{1, 64, 8, 64}, {67, 456, 24, 64}, {130, 136, 64, 128}, {3, 832, 40, 128}}) {
        CAPTURE(of.D);
        const auto x = vectors(of.T, of.D), W_kI = vectors(of.D, of.D_I), W_w = vectors(of.D, of.H_I);
        auto k = sized<bf16>((of.T + beyond) * of.D_I, bf16{0x7777});
        auto weights = sized<float>(of.T * of.H_I + beyond, -77.0F);
        IndexerProject call{};
        call.x = x.data();
        call.W_kI = W_kI.data();
        call.W_w = W_w.data();
        call.weights = weights.data();
        call.T = of.T;
        call.D = of.D;
        call.H_I = of.H_I;
        call.D_I = of.D_I;
        REQUIRE(indexer_narrow_products_declines(call) == "");
        indexer_narrow_products(call, k.data());
        const auto number = [](bf16 v) { return __uint_as_float(static_cast<std::uint32_t>(v.bits) << 16); };
        const auto check_column = [&](std::int64_t t, const std::vector<bf16>& w, std::int64_t columns,
                                      std::int64_t n, float got, double unit) {
            double want = 0, magnitude = 0;
            for (std::int64_t i = 0; i < of.D; ++i) {
                const double product = double{number(x[static_cast<std::size_t>(t * of.D + i)])} *
                                       number(w[static_cast<std::size_t>(i * columns + n)]);
                want += product;
                magnitude += std::fabs(product);
            }
            CHECK(std::fabs(got - want) <= unit * std::fabs(want) + 1e-5 * magnitude);  // false of NaN
        };
        for (std::int64_t t = 0; t < of.T; t += 1 + of.T / 7) {
            for (std::int64_t n = 0; n < of.D_I; n += 5)
                check_column(t, W_kI, of.D_I, n, number(k[static_cast<std::size_t>(t * of.D_I + n)]), 0x1p-8);
            for (std::int64_t n = 0; n < of.H_I; ++n)
                check_column(t, W_w, of.H_I, n, weights[static_cast<std::size_t>(t * of.H_I + n)], 0);
        }
        CHECK(k[static_cast<std::size_t>(of.T * of.D_I)].bits == 0x7777);
        CHECK(weights.back() == -77.0F);
    }
}

TEST_CASE("what it declines") {
    const Question of{.T = 1, .H_I = 1, .D_I = 64};
    const Inputs in(of);
    Outputs out;
    IndexerProject call = call_of(of, in, out);
    call.hadamard = false;
    CHECK(indexer_one_pass_declines(call) != "");
    call = call_of(of, in, out);
    call.D_I = 96;
    CHECK(indexer_one_pass_declines(call) != "");
    call = call_of(of, in, out);
    call.rope.pairs = 12;
    CHECK(indexer_one_pass_declines(call) != "");
    const auto declined = [&](std::int64_t H_I, std::int64_t D_I, const bf16* W_w) {
        call.H_I = H_I;
        call.D_I = D_I;
        call.W_w = W_w;
        return indexer_narrow_products_declines(call) != "";
    };
    const bf16 some{};
    CHECK(!declined(64, 128, &some));
    CHECK(declined(12, 128, &some));
    CHECK(declined(72, 128, &some));
    CHECK(declined(64, 96, &some));
    CHECK(declined(64, 128, nullptr));
}

TEST_CASE("a power of two above a 448th is that of the division") {
    for (std::uint32_t bits = 0x0500; bits < 0x7f00; ++bits) {  // of every bf16 number from 2^-117 on
        const float x = __uint_as_float(bits << 16);
        REQUIRE(power_of_two_above_448th(x) == block_scale(x, Quantizer::no_floor, true));
    }
    CHECK(power_of_two_above_448th(1e-4F) == block_scale(0.0F, Quantizer::deepseek, true));
}

TEST_CASE("a quotient is rounded as a division rounds it") {
    // All bf16 numbers, by their 128 mantissas, over all scales that they can make.
    volatile float minus_zero = -0.0F;  // not the compiler's to fold
    for (const int exponent : {-120, -40, 0, 30})
        for (int a = 128; a < 256; ++a) {
            const float scale = std::ldexp(static_cast<float>(a), exponent) / 448.0F;
            const Divisor<false> over(scale);
            for (int m = 128; m < 256; ++m)
                for (const int smaller : {0, 1, 7, 9, 20}) {
                    const float x = std::ldexp(static_cast<float>(m), exponent - smaller);
                    REQUIRE(over(x) == x / scale);
                    REQUIRE(over(-x) == -x / scale);
                }
            CHECK(std::signbit(over(minus_zero)));
        }
    const float tiny = 0x1p-126F / 448.0F;  // the floor of vLLM's quantiser, a subnormal number
    CHECK(Divisor<false>(tiny)(0.0F) == 0.0F);
    CHECK(Divisor<false>(tiny)(0x1p-126F) == 0x1p-126F / tiny);
    CHECK(Divisor<true>(0x1p-127F)(0x1p-120F) == 128.0F);
}
