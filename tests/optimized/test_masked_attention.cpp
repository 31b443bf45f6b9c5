// Is attention over a set of pairs the same for a few heads at a time, is its target a distribution, and does a row
// tell that nothing is allowed in it? And does the way back see the same pairs?
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "optimized/dense_mha_backward/op.h"
#include "optimized/simulator/numbers.h"
#include "optimized/training_step/masked_attention.h"

using namespace dsa;

namespace {

constexpr std::int64_t T = 9, H = 3, d = 8, d_v = 5;

bf16 number(float x) { return {simulator::rounded_to_bf16(x)}; }
float value(bf16 x) {
    const std::uint32_t bits = std::uint32_t{x.bits} << 16;
    float y = 0.0F;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

std::vector<bf16> waves(std::int64_t count, float step, float size) {
    std::vector<bf16> all;
    for (std::int64_t i = 0; i < count; ++i) all.push_back(number(size * std::sin(step * static_cast<float>(i + 1))));
    return all;
}

struct Inputs {
    std::vector<bf16> q, k, v;
    std::vector<std::uint32_t> selectors;  // [T, 1]

    explicit Inputs(float size)
        : q(waves(T * H * d, 0.7F, size)), k(waves(T * H * d, 1.3F, size)), v(waves(T * H * d_v, 0.9F, 1.0F)) {
        // Position s is selected by the queries s, s + 2, s + 4 ...
        for (std::int64_t s = 0; s < T; ++s) {
            std::uint32_t bits = 0;
            for (std::int64_t t = s; t < T; t += 2) bits |= 1U << t;
            selectors.push_back(bits);
        }
    }
    bool allows(std::int64_t t, std::int64_t s) const { return (selectors[s] >> t & 1U) != 0; }
};

struct Results {
    std::vector<bf16> out = std::vector<bf16>(T * H * d_v);
    std::vector<float> lse = std::vector<float>(T * H), target = std::vector<float>(T * T, -1.0F);
};

Results attended(const Inputs& in, bool renormalised, std::int64_t most_bytes, int level = 1) {
    Results results;
    MaskedAttention call{};
    call.q = in.q.data();
    call.k = in.k.data();
    call.v = in.v.data();
    call.selectors = in.selectors.data();
    call.out = results.out.data();
    call.lse = results.lse.data();
    call.target = results.target.data();
    call.T = T;
    call.H = H;
    call.d = d;
    call.d_v = d_v;
    call.scale = 1.0F;
    call.renormalised = renormalised;
    call.most_bytes = most_bytes;
    std::vector<unsigned char> workspace(static_cast<std::size_t>(masked_attention_workspace(call)));
    call.workspace = workspace.data();
    call.workspace_bytes = static_cast<std::int64_t>(workspace.size());
    masked_attention(call, level);
    return results;
}

// The call without its gradients and its workspace.
DenseMhaBackward way_back(const Inputs& in, const Results& results, const std::vector<bf16>& dout) {
    DenseMhaBackward call{};
    call.q = in.q.data();
    call.k = in.k.data();
    call.v = in.v.data();
    call.out = results.out.data();
    call.lse = results.lse.data();
    call.dout = dout.data();
    call.T = call.S = T;
    call.H = H;
    call.d = d;
    call.d_v = d_v;
    call.causal = true;
    call.scale = 1.0F;
    call.selectors = in.selectors.data();
    return call;
}

constexpr std::int64_t enough = 1 << 20;

}  // namespace

TEST_CASE("a head at a time gives the bits of all at once") {
    const Inputs in(1.0F);
    for (const bool renormalised : {false, true}) {
        const Results all = attended(in, renormalised, enough);
        const Results one = attended(in, renormalised, 1);
        CHECK(std::memcmp(all.out.data(), one.out.data(), all.out.size() * sizeof(bf16)) == 0);
        CHECK(all.lse == one.lse);
        CHECK(all.target == one.target);
    }
}

TEST_CASE("the target is a distribution over the allowed pairs, by either reading") {
    const Inputs in(1.0F);
    for (const bool renormalised : {false, true}) {
        const Results results = attended(in, renormalised, enough);
        for (std::int64_t t = 0; t < T; ++t) {
            // Of each head: its softmax over what it may see, or over everything.
            std::vector<double> expected(T, 0.0);
            for (std::int64_t h = 0; h < H; ++h) {
                double sum = 0.0;
                std::vector<double> exponentials(T, 0.0);
                for (std::int64_t s = 0; s <= t; ++s) {
                    double score = 0.0;
                    for (std::int64_t c = 0; c < d; ++c)
                        score += double{value(in.q[(t * H + h) * d + c])} * value(in.k[(s * H + h) * d + c]);
                    exponentials[s] = std::exp(score);
                    if (renormalised || in.allows(t, s)) sum += exponentials[s];
                }
                for (std::int64_t s = 0; s <= t; ++s)
                    if (in.allows(t, s)) expected[s] += exponentials[s] / sum / H;
            }
            double total = 0.0;
            for (const double p : expected) total += p;
            for (std::int64_t s = 0; s < T; ++s)
                CHECK(std::fabs(results.target[t * T + s] - expected[s] / total) <= 64 * 0x1p-24);
        }
    }
}

TEST_CASE("a selection that misses every probability says nothing about its members") {
    Inputs in(40.0F);  // scores so far apart that most probabilities are 0
    for (std::uint32_t& bits : in.selectors) bits = 0;
    for (std::int64_t c = 0; c < H * d; ++c) {  // the last query sees itself only, a key far from it
        in.q[(T - 1) * H * d + c] = number(30.0F);
        in.k[(T - 1) * H * d + c] = number(-30.0F);
        in.k[c] = number(30.0F);
    }
    in.selectors[T - 1] = 1U << (T - 1);
    for (std::int64_t t = 0; t + 1 < T; ++t) in.selectors[t] = 1U << t;
    const Results results = attended(in, true, enough);
    for (std::int64_t s = 0; s < T; ++s) CHECK(results.target[(T - 1) * T + s] == (s == T - 1 ? 1.0F : 0.0F));
}

TEST_CASE("a query that may see nothing is NaN, not 0") {
    Inputs in(1.0F);
    constexpr std::int64_t blind = 4;
    for (std::uint32_t& bits : in.selectors) bits &= ~(1U << blind);
    const Results results = attended(in, false, enough);
    for (std::int64_t t = 0; t < T; ++t)
        for (std::int64_t h = 0; h < H; ++h) {
            CHECK(std::isnan(results.lse[t * H + h]) == (t == blind));
            CHECK(std::isnan(value(results.out[(t * H + h) * d_v])) == (t == blind));
        }
    CHECK(std::isnan(results.target[blind * T]));
}

TEST_CASE("a query that sees one position has no gradient of its scores, not what rounding leaves of one") {
    Inputs in(1.0F);
    for (std::int64_t s = 0; s < T; ++s) in.selectors[s] = 1U << s;
    const Results results = attended(in, false, enough);
    const std::vector<bf16> dout = waves(T * H * d_v, 0.4F, 1.0F);
    DenseMhaBackward call = way_back(in, results, dout);
    std::vector<unsigned char> workspace(static_cast<std::size_t>(dense_mha_backward_workspace(call)));
    call.workspace = workspace.data();
    call.workspace_bytes = static_cast<std::int64_t>(workspace.size());
    std::vector<bf16> dq(T * H * d, number(1.0F)), dv(T * H * d_v);
    std::vector<float> dk(T * H * d, 1.0F);
    call.dq = dq.data();
    call.dk_float32 = dk.data();
    call.dv = dv.data();
    dense_mha_backward_chain(call, 1);
    for (const bf16 x : dq) CHECK(value(x) == 0.0F);
    for (const float x : dk) CHECK(x == 0.0F);
}

TEST_CASE("the way back sees the pairs that were allowed, and can keep dk in float32") {
    const Inputs in(1.0F);
    const Results results = attended(in, false, enough);
    const std::vector<bf16> dout = waves(T * H * d_v, 0.4F, 1.0F);
    DenseMhaBackward call = way_back(in, results, dout);
    std::vector<unsigned char> workspace(static_cast<std::size_t>(dense_mha_backward_workspace(call)));
    call.workspace = workspace.data();
    call.workspace_bytes = static_cast<std::int64_t>(workspace.size());
    std::vector<bf16> dq(T * H * d), dk(T * H * d), dv(T * H * d_v);
    std::vector<float> dk_float32(T * H * d);
    call.dq = dq.data();
    call.dk = dk.data();
    call.dv = dv.data();
    dense_mha_backward_chain(call, 1);
    call.dk = nullptr;
    call.dk_float32 = dk_float32.data();
    dense_mha_backward_chain(call, 1);
    int wrong = 0;
    for (std::size_t i = 0; i < dk.size(); ++i) wrong += number(dk_float32[i]).bits == dk[i].bits ? 0 : 1;
    CHECK(wrong == 0);
    // dv = p^T dout, over the queries that selected a position.
    for (std::int64_t s = 0; s < T; ++s)
        for (std::int64_t h = 0; h < H; ++h)
            for (std::int64_t c = 0; c < d_v; ++c) {
                double sum = 0.0;
                double magnitude = 0.0;
                for (std::int64_t t = s; t < T; ++t) {
                    if (!in.allows(t, s)) continue;
                    double score = 0.0;
                    for (std::int64_t i = 0; i < d; ++i)
                        score += double{value(in.q[(t * H + h) * d + i])} * value(in.k[(s * H + h) * d + i]);
                    const double term = std::exp(score - results.lse[t * H + h]) * value(dout[(t * H + h) * d_v + c]);
                    sum += term;
                    magnitude += std::fabs(term);
                }
                // p and the result are stored as bf16, whose 8 bits are off by half of the last: 2^-8 each.
                CHECK(std::fabs(value(dv[(s * H + h) * d_v + c]) - sum) <= 2.1 * 0x1p-8 * magnitude);
            }
}
