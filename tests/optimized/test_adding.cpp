// The kernel that adds the parts of a selection (attention/adding.cuh): few parts, more than one bunch of loads
// takes, and the most; with rehearsals and without. The ops' small cases have few parts.
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels.h"
#include "optimized/attention/adding.cuh"

namespace {

using namespace dsa;
using namespace dsa::testing;

constexpr float infinity = std::numeric_limits<float>::infinity();

struct Added {
    std::vector<std::uint16_t> out;
    std::vector<float> lse, max_logit;
    bool operator==(const Added& other) const {
        return out == other.out && lse == other.lse && max_logit == other.max_logit;
    }
};

float number_of(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

// Rows of q x heads of them.
struct Question {
    static constexpr int rows = 3, H = 2, all = rows * H, latent = adding::latent;
    int splits;
    std::vector<std::byte> memory;
    Parts parts{1, 0, empty};
    std::vector<float> sink = {0.5F, -infinity};
    static inline Arena empty;

    explicit Question(int count) : splits(count) {
        Arena measured;
        Parts(splits, all, measured);
        memory.resize(static_cast<std::size_t>(measured.bytes()) + 256);
        Arena arena(memory.data());
        parts = Parts(splits, all, arena);
        std::mt19937 generator(static_cast<unsigned>(splits));
        std::normal_distribution<float> normal;
        for (int row = 0; row < all; ++row)
            for (int s = 0; s < splits; ++s) {
                // The first row sees nothing, the second one of its parts alone.
                const bool none = row == 0 || (row == 1 ? s != splits / 2 : generator() % 4 == 0);
                parts.maximum[row * splits + s] = none ? -infinity : 20 * normal(generator);
                parts.sum[row * splits + s] = none ? 0 : 1 + std::abs(normal(generator));
                for (int i = 0; i < latent; ++i)
                    parts.out[(s * all + row) * latent + i] = none ? 0 : normal(generator);
            }
    }

    template <bool early, bool plain_order>
    Added ask(int rehearsing) const {
        Added added{std::vector<std::uint16_t>(static_cast<std::size_t>(all * latent), 0xffff),
                    std::vector<float>(static_cast<std::size_t>(all), 7),
                    std::vector<float>(static_cast<std::size_t>(all), 7)};
        AttentionResult result{};
        result.out = reinterpret_cast<bf16*>(added.out.data());
        result.lse = added.lse.data();
        result.max_logit = added.max_logit.data();
        result.sink = sink.data();
        result.scale = 1;
        add_parts<early, plain_order>(parts, result, rows, H, splits, nullptr, rehearsing);
        return added;
    }

    void check(const Added& added, bool plain_order) const {
        // Of a sum, as a share of its terms' size (rounded to bf16 then, by 2^-8 of itself): a rounding a part, and
        // weights that matter, of parts less than 20 below the maximum, whose exponents of 2 are off by less than
        // 2^-19.
        const double error = std::ldexp(splits + 64.0, -24);
        for (int row = 0; row < all; ++row) {
            CAPTURE(splits);
            CAPTURE(row);
            double maximum = -infinity, sum = 0;
            for (int s = 0; s < splits; ++s) maximum = std::max(maximum, double{parts.maximum[row * splits + s]});
            std::vector<double> weights;
            for (int s = 0; s < splits; ++s) {
                const double mine = parts.maximum[row * splits + s];
                weights.push_back(std::isinf(mine) ? 0 : std::exp(mine - maximum));
                sum += parts.sum[row * splits + s] * weights.back();
            }
            CHECK(added.max_logit[static_cast<std::size_t>(row)] == maximum);
            const float lse = added.lse[static_cast<std::size_t>(row)];
            if (std::isinf(maximum))
                CHECK(lse == -infinity);
            else
                CHECK(std::abs(lse - (maximum + std::log(sum))) <= error * (1 + std::abs(maximum)));
            const double over = sum + std::exp(sink[static_cast<std::size_t>(row % H)] - maximum);
            int off = 0;
            for (int i = 0; i < latent; ++i) {
                double want = 0, size = 0;
                for (int s = 0; s < splits; ++s) {
                    const double term =
                        parts.out[(s * all + row) * latent + i] * weights[static_cast<std::size_t>(s)];
                    want += term / over;
                    size += std::abs(term) / over;
                }
                if (std::isinf(maximum)) want = size = 0;
                const int place = plain_order || i % 4 == 0 || i % 4 == 3 ? i : i ^ 3;  // 0 2 1 3
                const double got = number_of(added.out[static_cast<std::size_t>(row * latent + place)]);
                off += !(std::abs(got - want) <= std::ldexp(std::abs(want), -8) + error * size);
            }
            CHECK(off == 0);
        }
    }
};

TEST_CASE("parts are added, few and many, with and without a rehearsal") {
    for (const int splits : {2, 3, 15, 16, 17, 32, 33, 47, 127, 128}) {
        const Question question(splits);
        const Added plain = question.ask<false, true>(0);
        question.check(plain, true);
        question.check(question.ask<false, false>(0), false);
        with_seeds(2, [&] {
            for (const int rehearsing : {0, 1, Question::all - 1, Question::all, 500})
                CHECK(question.ask<true, true>(rehearsing) == plain);
        });
    }
}

TEST_CASE("a part that is no number makes its row none, and no other") {
    Question question(19);
    const Added before = question.ask<true, true>(2);
    for (const int part : {0, 3, 17}) {
        Question other(19);
        const int row = 4;
        other.parts.maximum[row * 19 + part] = other.parts.sum[row * 19 + part] = NAN;
        other.parts.out[(part * Question::all + row) * Question::latent + 9] = NAN;
        const Added after = other.ask<true, true>(2);
        for (int i = 0; i < Question::all; ++i) {
            CAPTURE(i);
            const auto at = static_cast<std::size_t>(i);
            CHECK(std::isnan(after.lse[at]) == (i == row));
            if (i != row) CHECK(after.lse[at] == before.lse[at]);
            bool same = true, none = true;
            for (std::size_t j = at * Question::latent; j < (at + 1) * Question::latent; ++j) {
                same = same && after.out[j] == before.out[j];
                none = none && std::isnan(number_of(after.out[j]));
            }
            CHECK((i == row ? none : same));
        }
    }
}

}  // namespace
