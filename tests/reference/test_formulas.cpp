// What holds in exact arithmetic, holds: the identities that tie the formulas to each other.
//
// Tolerances are first-order: a sum of n products in float64 errs by n u sum |a b|; the chains here are shorter
// than 4096 steps, so 4096 u times the size of the numbers is beyond anything rounding can do.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "reference/attention/dense_attention.h"
#include "reference/attention/indexer.h"
#include "reference/attention/kv_cache.h"
#include "reference/attention/mla.h"
#include "reference/attention/sparse_attention.h"
#include "reference/attention/top_k.h"
#include "reference/moe/experts.h"
#include "reference/training/attention_target.h"
#include "reference/training/indexer_kl_loss.h"
#include "reference/training/sparse_attention_backward.h"
#include "tests/reference/random_tensors.h"

using namespace dsa;

namespace {

constexpr double rounding = 4096 * float64_unit;

template <class A, class B>
void check_close(const A& a, const B& b) {
    CHECK(largest_difference(a, b) <= rounding * std::max(1.0, largest_magnitude(a)));
}

Array<std::int32_t> every_position(Index T, Index S) {
    Array<std::int32_t> indices({T, S}, -1);
    for (Index t = 0; t < T; ++t)
        for (Index s = 0; s <= S - T + t; ++s) indices(t, s) = static_cast<std::int32_t>(s);
    return indices;
}

MlaWeights small_mla() {
    MlaWeights w;
    w.heads = 3;
    w.W_dq = random_weight({40, 24}, "W_dq", 0.16);
    w.q_norm = random_array({24}, "q_norm", 0.1, 1.0);
    w.W_uq = random_weight({24, 3 * (16 + 8)}, "W_uq", 0.4);
    w.W_dkv = random_weight({40, 32 + 8}, "W_dkv", 0.16);
    w.kv_norm = random_array({32}, "kv_norm", 0.1, 1.0);
    w.W_uk = random_weight({32, 3 * 16}, "W_uk", 0.18);
    w.W_uv = random_weight({32, 3 * 12}, "W_uv", 0.18);
    w.W_o = random_weight({3 * 12, 40}, "W_o", 0.17);
    return w;
}

RopeParameters short_rope() {
    RopeParameters rope;
    rope.original_context = 64;
    rope.max_context = 4096;
    return rope;
}

}  // namespace

TEST_CASE("V3.2's softmax scale") {
    CHECK(std::fabs(softmax_scale(RopeParameters{}, 128, 64) - 0.1352337788608801) <= 2e-16);
}

TEST_CASE("rope keeps lengths, and scores depend on the distance alone") {
    const auto q = random_tensor<Exact>({1, 1, 64}, "q");
    const auto k = random_tensor<Exact>({1, 1, 64}, "k");
    for (const RopeLayout layout : {RopeLayout::interleaved, RopeLayout::half_split}) {
        const auto at = [&](const Tensor<Exact>& x, std::int32_t position, RopeLayout output) {
            return rope(x, integers({position}), RopeParameters{}, layout, output);
        };
        const auto score = [&](std::int32_t a, std::int32_t b, RopeLayout output) {
            return ordered_dot(at(q, a, output).row(0), at(k, b, output).row(0));
        };
        CHECK(std::fabs(ordered_dot(at(q, 5000, layout).row(0), at(q, 5000, layout).row(0)) -
                        ordered_dot(q.row(0), q.row(0))) <= rounding * 64);
        // Angles are products of a position up to 2^18 and a rounded frequency: 2^18 u each.
        CHECK(std::fabs(score(20, 3, layout) - score(150020, 150003, layout)) <= 64 * 0x1p18 * float64_unit * 16);
        CHECK(std::fabs(score(20, 3, layout) - score(20, 4, layout)) > 1e-3);
        CHECK(std::fabs(score(20, 3, RopeLayout::interleaved) - score(20, 3, RopeLayout::half_split)) <=
              rounding * 64);
    }
    CHECK(largest_difference(rope(q, integers({9}), {}, RopeLayout::interleaved, RopeLayout::interleaved),
                             rope(q, integers({9}), {}, RopeLayout::half_split, RopeLayout::half_split)) > 1e-3);
}

TEST_CASE("YaRN leaves fast pairs alone and slows slow ones by the whole factor") {
    RopeParameters without;
    without.max_context = 4096;
    const auto slowed = rope_frequencies(RopeParameters{}, 64);
    const auto plain = rope_frequencies(without, 64);
    CHECK(slowed[0] == plain[0]);
    CHECK(plain[0] == 1.0);
    CHECK(slowed[31] == plain[31] / 40.0);
    for (std::size_t i = 1; i < 32; ++i) CHECK(slowed[i] < slowed[i - 1]);
    CHECK(yarn_mscale(without) == 1.0);
}

TEST_CASE("Hadamard is the matrix of signs, its own inverse, and leaves products alone") {
    const auto q = random_tensor<Exact>({2, 1, 64}, "q");
    const auto k = random_tensor<Exact>({2, 1, 64}, "k");
    const auto turned = hadamard(q);
    for (Index i = 0; i < 64; ++i) {
        double sum = 0.0;
        for (Index j = 0; j < 64; ++j)
            sum += (std::popcount(static_cast<unsigned>(i & j)) % 2 == 0 ? 1 : -1) * q(1, 0, j);
        CHECK(std::fabs(turned(1, 0, i) - sum / 8.0) <= rounding * 64);
    }
    check_close(hadamard(turned), q);
    CHECK(std::fabs(ordered_dot(turned.row(0), hadamard(k).row(0)) - ordered_dot(q.row(0), k.row(0))) <=
          rounding * 64);
    CHECK_THROWS_WITH_AS(hadamard(random_tensor<Exact>({1, 1, 48}, "x")),
                         "hadamard: the last axis must be a power of two; got 48", Refusal);
}

TEST_CASE("quantisers: floors, powers of two, zero blocks") {
    Tensor<Deployed> x = as_tensor<Deployed>(random_array({3, 128}, "x", 2.0));
    for (Index i = 0; i < 128; ++i) x(1, i) = 0.0F;
    for (Index i = 0; i < 128; ++i) x(2, i) *= 1e-6F;
    const auto scale = [&](Quantizer q, ScaleFormat f, Index row) { return quantize(x, q, f).scale(row, 0); };
    for (const Quantizer q : {Quantizer::deepseek, Quantizer::flashmla, Quantizer::vllm}) {
        const float linear = scale(q, ScaleFormat::float32, 0);
        const float power = scale(q, ScaleFormat::ue8m0, 0);
        const Tensor<Deployed> first_row({128}, std::vector<float>(x.data(), x.data() + 128));
        CHECK(linear == static_cast<float>(largest_magnitude(first_row)) / 448.0F);
        CHECK(power >= linear);
        CHECK(power < 2 * linear);
        CHECK(std::exp2(std::round(std::log2(power))) == power);
        CHECK(quantize(x, q, ScaleFormat::ue8m0).values(1, 5) == 0.0F);
    }
    CHECK(scale(Quantizer::deepseek, ScaleFormat::float32, 2) == 1e-4F / 448.0F);
    CHECK(scale(Quantizer::flashmla, ScaleFormat::float32, 2) == 1e-4F);
    CHECK(scale(Quantizer::vllm, ScaleFormat::float32, 2) < 1e-7F);
    CHECK(std::isnan(quantize(x, Quantizer::no_floor, ScaleFormat::float32).values(1, 5)));
    CHECK(largest_difference(quantize(x, Quantizer::none, ScaleFormat::ue8m0).values, x) == 0.0);
}

TEST_CASE("MHA equals MQA, and sparse attention with all selected equals dense attention") {
    const MlaWeights w = small_mla();
    const auto x = random_tensor<Exact>({9, 40}, "x");
    const auto m = mla_project(x, counting_positions(9), w, short_rope(), Conventions{});
    const auto kv = cached_latent(m, Conventions{});
    const double scale = softmax_scale(short_rope(), w.d_nope(), w.d_rope());
    const auto q = absorbed_query(m, w);
    const auto mqa = dense_attention_mqa(q, kv, scale, w.R_kv(), DenseRange{});
    const auto [k, v] = expanded_keys_values(kv, w);
    const auto mha = dense_attention_mha(joined_last_axis(m.q_nope, m.q_rope), k, v, scale, DenseRange{});
    check_close(mqa.lse, mha.lse);
    Tensor<Exact> heads = mha.out;
    heads.reshape({9, 3 * 12});
    check_close(output_projection(mqa.out, w, Conventions{}), matmul(heads, w.W_o));

    const auto sparse = sparse_attention(q, kv, every_position(9, 9), scale, w.R_kv());
    CHECK(largest_difference(sparse.out, mqa.out) == 0.0);
    CHECK(largest_difference(sparse.lse, mqa.lse) == 0.0);
    // The order of rotated pairs changes no score.
    Conventions deinterleaved;
    deinterleaved.mla_rope_output = RopeLayout::half_split;
    const auto other = mla_project(x, counting_positions(9), w, short_rope(), deinterleaved);
    check_close(dense_attention_mqa(absorbed_query(other, w), cached_latent(other, deinterleaved), scale, w.R_kv(),
                                    DenseRange{})
                    .lse,
                mqa.lse);
}

TEST_CASE("sparse attention: skipped slots, duplicates, empty rows, sink, split and combine") {
    const auto q = random_tensor<Exact>({2, 3, 24}, "q");
    const auto kv = random_tensor<Exact>({20, 24}, "kv");
    const Array<std::int32_t> plain({2, 6}, std::vector<std::int32_t>{3, 5, 9, 11, 15, 19, -1, -1, -1, -1, -1, -1});
    const Array<std::int32_t> odd({2, 9}, std::vector<std::int32_t>{3, -1, 5, 5, 9, 20, 11, 15, 19, -1, -5, 99, -1,
                                                                    -1, -1, -1, -1, 2147483647});
    const auto a = sparse_attention(q, kv, plain, 0.3, 16);
    const auto b = sparse_attention(q, kv, odd, 0.3, 16);
    CHECK(largest_difference(a.out, b.out) == 0.0);
    CHECK(largest_difference(a.lse, b.lse) == 0.0);
    CHECK(a.out(1, 0, 0) == 0.0);
    CHECK(a.lse(1, 2) == -INFINITY);
    Conventions conventions;
    conventions.empty_row_lse = EmptyRowLse::plus_infinity;
    conventions.lse = LogBase::base2;
    const auto converted = lse_by_convention(a.lse, conventions);
    CHECK(converted(1, 2) == INFINITY);
    CHECK(std::fabs(converted(0, 0) - a.lse(0, 0) / std::log(2.0)) <= rounding);

    // Two halves combine into the whole.
    const Array<std::int32_t> first({2, 3}, std::vector<std::int32_t>{3, 5, 9, -1, -1, -1});
    const Array<std::int32_t> second({2, 3}, std::vector<std::int32_t>{11, 15, 19, -1, -1, -1});
    const std::vector<AttentionOutput<Exact>> parts{sparse_attention(q, kv, first, 0.3, 16),
                                                    sparse_attention(q, kv, second, 0.3, 16)};
    const auto whole = combined<Exact>(parts);
    check_close(whole.out, a.out);
    check_close(whole.lse, a.lse);
    CHECK(largest_difference(whole.max_logit, a.max_logit) == 0.0);

    // A sink takes its share of the probability, and no part in lse.
    const auto sink = random_tensor<Exact>({3}, "sink");
    const auto with_sink = sparse_attention(q, kv, plain, 0.3, 16, sink);
    CHECK(largest_difference(with_sink.lse, a.lse) == 0.0);
    for (Index h = 0; h < 3; ++h) {
        const double share = 1.0 / (1.0 + std::exp(sink[h] - a.lse(0, h)));
        CHECK(std::fabs(with_sink.out(0, h, 5) - share * a.out(0, h, 5)) <= rounding);
    }
    // A head alone gives what it gives among others.
    Tensor<Exact> one_head({2, 1, 24});
    for (Index t = 0; t < 2; ++t) one_head.row(t, 0) = q.row(t, 1);
    CHECK((sparse_attention(one_head, kv, plain, 0.3, 16).out.row(0, 0) == a.out.row(0, 1)).all());
}

TEST_CASE_TEMPLATE("indexer logits: the plain loop, ranges, packed sequences, pages, one query at a time", P, Exact,
                   Deployed) {
    const auto q = random_tensor<P>({6, 4, 32}, "q", 3.0);
    const auto k = random_tensor<P>({70, 32}, "k", 3.0);
    Tensor<P> k_scale({70});
    for (Index s = 0; s < 70; ++s) k_scale[s] = typename P::Real(0.01 + 0.001 * static_cast<double>(s));
    const auto weights = random_tensor<P>({6, 4}, "w");
    const auto start = integers({0, 0, 30, 30, 5, 70});
    const auto end = integers({70, 1, 60, 61, 5, 70});
    const auto logits = indexer_logits(q, k, k_scale, weights, start, end, {});
    for (Index t = 0; t < 6; ++t)
        for (Index s = 0; s < 70; ++s) {
            if (s < start[t] || s >= end[t]) {
                CHECK(logits(t, s) == -INFINITY);
                continue;
            }
            typename P::Real sum(0.0);
            for (Index j = 0; j < 4; ++j) sum += weights(t, j) * relu(ordered_dot(q.row(t, j), k.row(s)));
            CHECK(logits(t, s) == sum * k_scale[s]);
        }
    // Keys in pages, read back from their bytes: e4m3 numbers, so quantise first.
    if constexpr (std::is_same_v<P, Deployed>) {
        const auto quantised = quantize(k, Quantizer::deepseek, ScaleFormat::float32, 32);
        Tensor<P> scale = quantised.scale;
        scale.reshape({70});
        const auto pages = pack_key_pages(quantised.values, scale);
        CHECK(pages.shape() == Shape{2, 64 * 36});
        Tensor<P> back({70, 32});
        Tensor<P> back_scale({70});
        for (Index s = 0; s < 70; ++s)
            back_scale[s] = read_key<P>(pages, KeyPageLayout{32}, s / 64, s % 64, back.row(s));
        CHECK(largest_difference(back, quantised.values) == 0.0);
        CHECK(largest_difference(back_scale, scale) == 0.0);
    }
}

TEST_CASE_TEMPLATE("packed sequences give what they give alone", P, Exact, Deployed) {
    const auto q = random_tensor<P>({8, 4, 32}, "q");
    const auto k = random_tensor<P>({8, 32}, "k");
    const auto weights = random_tensor<P>({8, 4}, "w");
    const Tensor<P> ones({8}, typename P::Real(1.0));
    const auto kv = random_tensor<P>({8, 24}, "kv");
    const auto heads = random_tensor<P>({8, 3, 24}, "heads");
    const auto rows = [](const Tensor<P>& x, Index first, Index count) {
        Shape shape = x.shape();
        shape[0] = count;
        Tensor<P> part(shape);
        std::copy(x.data() + first * (x.size() / x.dim(0)), x.data() + (first + count) * (x.size() / x.dim(0)),
                  part.data());
        return part;
    };
    // Tokens 0 to 2 are one sequence, 3 to 7 another.
    const auto start = integers({0, 0, 0, 3, 3, 3, 3, 3});
    const auto end = integers({1, 2, 3, 4, 5, 6, 7, 8});
    const auto packed = top_k(indexer_logits(q, k, ones, weights, start, end, {}), start, end, 2);
    DenseRange range;
    range.start = start;
    const auto attention = sparse_attention(heads, kv, packed, 0.3, 16);
    const auto dense = dense_attention_mqa(heads, kv, 0.3, 16, range);
    for (const auto& [first, count] : {std::pair<Index, Index>{0, 3}, {3, 5}}) {
        const auto [own_start, own_end] = causal_range(count, count);
        const auto own = top_k(indexer_logits(rows(q, first, count), rows(k, first, count), rows(ones, first, count),
                                              rows(weights, first, count), own_start, own_end, {}),
                               own_start, own_end, 2);
        const auto own_attention = sparse_attention(rows(heads, first, count), rows(kv, first, count), own, 0.3, 16);
        const auto own_dense =
            dense_attention_mqa(rows(heads, first, count), rows(kv, first, count), 0.3, 16, DenseRange{});
        for (Index t = 0; t < count; ++t)
            for (Index i = 0; i < 2; ++i) CHECK(packed(first + t, i) == (own(t, i) < 0 ? -1 : own(t, i) + first));
        CHECK(largest_difference(rows(attention.out, first, count), own_attention.out) == 0.0);
        CHECK(largest_difference(rows(dense.out, first, count), own_dense.out) == 0.0);
        CHECK(largest_difference(rows(dense.lse, first, count), own_dense.lse) == 0.0);
    }
}

TEST_CASE("Hadamard on both sides changes no logit; on one side only it does") {
    const auto q = random_tensor<Exact>({2, 4, 64}, "q");
    const auto k = random_tensor<Exact>({9, 1, 64}, "k");
    const auto weights = random_tensor<Exact>({2, 4}, "w");
    const Tensor<Exact> ones({9}, 1.0);
    const auto [start, end] = causal_range(2, 9);
    const auto logits = [&](const Tensor<Exact>& queries, Tensor<Exact> keys) {
        keys.reshape({9, 64});
        return indexer_logits(queries, keys, ones, weights, start, end, {});
    };
    const auto plain = logits(q, k);
    CHECK(largest_difference(plain, logits(hadamard(q), hadamard(k))) <= rounding * 64);
    CHECK(largest_difference(plain, logits(hadamard(q), k)) > 0.1);
}

TEST_CASE("top-k is the head of a total order") {
    const double inf = INFINITY;
    const Tensor<Exact> logits({1, 8}, std::vector<double>{0.0, -0.0, 1.0, -inf, 1.0, inf, -70000.0, 0.0});
    const auto take = [&](std::int32_t from, std::int32_t to, Index k) {
        const auto indices = top_k(logits, integers({from}), integers({to}), k);
        return std::vector<std::int32_t>(indices.data(), indices.data() + k);
    };
    using Row = std::vector<std::int32_t>;
    CHECK(take(0, 8, 1) == Row{5});
    CHECK(take(0, 8, 2) == Row{2, 5});
    CHECK(take(0, 8, 4) == Row{0, 2, 4, 5});
    CHECK(take(0, 8, 5) == Row{0, 1, 2, 4, 5});  // -0.0 equals 0.0: the lower position
    CHECK(take(0, 8, 7) == Row{0, 1, 2, 4, 5, 6, 7});
    CHECK(take(0, 8, 8) == Row{0, 1, 2, 3, 4, 5, 6, 7});
    CHECK(take(0, 8, 10) == Row{0, 1, 2, 3, 4, 5, 6, 7, -1, -1});
    CHECK(take(3, 4, 2) == Row{3, -1});  // -inf is a candidate still
    CHECK(take(3, 3, 2) == Row{-1, -1});
    const Tensor<Exact> broken({1, 3}, std::vector<double>{1.0, NAN, 2.0});
    CHECK_THROWS_AS(top_k(broken, integers({0}), integers({3}), 1), Refusal);
    CHECK(top_k(broken, integers({0}), integers({3}), 2, NanScores::minus_infinity)(0, 1) == 2);
    CHECK(top_k(broken, integers({2}), integers({3}), 1)(0, 0) == 2);  // outside the range nobody looks
}

TEST_CASE("top-k against a full sort, with crowds and ties") {
    for (const double levels : {2.0, 16.0, 1e9})
        for (const Index k : {Index{1}, Index{100}, Index{2048}, Index{4999}}) {
            Tensor<Exact> logits({1, 5000});
            const RandomTensor random{3, 4};
            for (Index s = 0; s < 5000; ++s)
                logits[s] = std::floor(random.block(static_cast<std::uint64_t>(s))[0] * 0x1p-32 * levels);
            std::vector<std::int32_t> order(5000);
            for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
            order.resize(static_cast<std::size_t>(k));
            std::sort(order.begin(), order.end());
            const auto indices = top_k(logits, integers({0}), integers({5000}), k);
            CHECK(std::equal(order.begin(), order.end(), indices.data()));
        }
}

TEST_CASE("the cache's bytes are where the layout says") {
    const auto kv = as_tensor<Deployed>(random_array({66, 576}, "kv", 1.0));
    const KvTokenLayout layout{512, 64};
    CHECK(layout.bytes() == 656);
    CHECK(KeyPageLayout{128}.bytes() == 8448);
    const auto pages = pack_kv_pages(kv, layout, Quantizer::flashmla, ScaleFormat::ue8m0);
    CHECK(pages.shape() == Shape{2, 64, 656});
    Tensor<Deployed> latent({66, 512});
    latent.matrix() = kv.matrix().leftCols(512);
    const auto q = quantize(latent, Quantizer::flashmla, ScaleFormat::ue8m0);
    const std::uint8_t* token = pages.data() + 65 * 656;
    CHECK(token[130] == to_e4m3(q.values(65, 130)).bits);
    CHECK(detail::get_bytes<float>(token + 512 + 4) == q.scale(65, 1));
    CHECK(detail::get_bytes<std::uint16_t>(token + 528 + 2 * 63) == to_bfloat16(kv(65, 575)).bits);
    CHECK(pages(1, 2, 0) == 0);  // past the last token

    // Attention on pages equals attention on what they hold.
    Tensor<Deployed> read({66, 576});
    for (Index s = 0; s < 66; ++s) read_kv_token<Deployed>(pages, layout, s, read.row(s));
    CHECK(largest_difference(last_axis(read, 0, 512), stored_as_bf16(dequantized(q))) == 0.0);
    CHECK(largest_difference(last_axis(read, 512, 64), last_axis(kv, 512, 64)) == 0.0);
}

TEST_CASE("the gate: bias joins the choice only, groups count their two best, ties go down") {
    GateShape shape{4, 2, 3, 2.5, true};
    const auto x = random_tensor<Exact>({5, 20}, "x");
    const Weight W_g = random_weight({20, 16}, "W_g", 0.3);
    const Array<float> bias = random_array({16}, "bias", 1.0);
    const auto gate = moe_gate(x, W_g, bias, shape, Conventions{});
    for (Index t = 0; t < 5; ++t) {
        std::vector<double> biased(16);
        for (Index e = 0; e < 16; ++e) biased[static_cast<std::size_t>(e)] = gate.scores(t, e) + bias[e];
        std::vector<std::pair<double, Index>> groups;
        for (Index g = 0; g < 4; ++g) {
            std::vector<double> of_group(biased.begin() + g * 4, biased.begin() + g * 4 + 4);
            std::sort(of_group.rbegin(), of_group.rend());
            groups.emplace_back(-(of_group[0] + of_group[1]), g);
        }
        std::sort(groups.begin(), groups.end());
        std::vector<std::pair<double, Index>> experts;
        for (int g = 0; g < 2; ++g)
            for (Index e = groups[static_cast<std::size_t>(g)].second * 4;
                 e < groups[static_cast<std::size_t>(g)].second * 4 + 4; ++e)
                experts.emplace_back(-biased[static_cast<std::size_t>(e)], e);
        std::sort(experts.begin(), experts.end());
        double total = 0.0;
        double weights = 0.0;
        for (int i = 0; i < 3; ++i) total += gate.scores(t, experts[static_cast<std::size_t>(i)].second);
        for (Index i = 0; i < 3; ++i) {
            CHECK(gate.experts(t, i) == experts[static_cast<std::size_t>(i)].second);
            CHECK(std::fabs(gate.weights(t, i) - 2.5 * gate.scores(t, gate.experts(t, i)) / total) <= rounding);
            weights += gate.weights(t, i);
        }
        CHECK(std::fabs(weights - 2.5) <= rounding);
    }
    const Tensor<Exact> nothing({1, 20}, 0.0);
    const auto tied = moe_gate(nothing, W_g, Array<float>({16}, 0.0F), shape, Conventions{});
    CHECK(tied.experts(0, 0) == 0);
    CHECK(tied.experts(0, 2) == 2);
}

TEST_CASE("a mixture is the weighted sum of its experts and the shared one") {
    const auto x = random_tensor<Exact>({4, 20}, "x");
    MoeWeights w;
    w.W_g = random_weight({20, 8}, "W_g", 0.3);
    w.bias = random_array({8}, "bias", 0.2);
    w.shape = GateShape{2, 1, 2, 1.5, true};
    w.expert = [](Index e) {
        const std::string name = std::to_string(e);
        return FeedForwardWeights{random_weight({20, 12}, "g" + name, 0.2), random_weight({20, 12}, "u" + name, 0.2),
                                  random_weight({12, 20}, "d" + name, 0.3)};
    };
    w.shared = w.expert(99);
    const auto gate = moe_gate(x, w.W_g, w.bias, w.shape, Conventions{});
    Tensor<Exact> expected = feed_forward(x, w.shared, Conventions{});
    for (Index e = 0; e < 8; ++e) {
        const auto out = feed_forward(x, w.expert(e), Conventions{});
        for (Index t = 0; t < 4; ++t)
            for (Index i = 0; i < 2; ++i)
                if (gate.experts(t, i) == e) expected.row(t) += out.row(t) * gate.weights(t, i);
    }
    check_close(moe(x, gate, w, Conventions{}), expected);
}

TEST_CASE("the target sums to one; its two readings agree for one head and differ for several") {
    for (const Index H : {1, 5}) {
        const auto q = random_tensor<Exact>({4, H, 16}, "q", 2.0);
        const auto kv = random_tensor<Exact>({12, 16}, "kv");
        const auto dense = attention_target(q, kv, 0.5);
        for (Index t = 0; t < 4; ++t) CHECK(std::fabs(ordered_sum(dense.row(t)) - 1.0) <= rounding);
        const Array<std::int32_t> indices(
            {4, 4}, std::vector<std::int32_t>{0, 3, 3, 8, 1, 2, 3, -1, 4, 5, 9, 10, 0, 6, 7, 11});
        const auto on_set = attention_target(q, kv, indices, 0.5, SparseKlTarget::softmax_on_set);
        const auto renormalised = attention_target(q, kv, indices, 0.5, SparseKlTarget::renormalised);
        CHECK(on_set(0, 2) == 0.0);  // the repeat
        CHECK(on_set(1, 3) == 0.0);
        for (Index t = 0; t < 4; ++t) CHECK(std::fabs(ordered_sum(on_set.row(t)) - 1.0) <= rounding);
        const double difference = largest_difference(on_set, renormalised);
        CHECK((H == 1 ? difference <= rounding : difference > 1e-3));
    }
}

TEST_CASE("gradients of the indexer's loss equal complex steps and central differences") {
    const Index T = 3;
    const Index S = 7;
    const auto target =
        attention_target(random_tensor<Exact>({T, 2, 8}, "q_mla"), random_tensor<Exact>({S, 8}, "kv"), 0.5);
    Tensor<ComplexStep> complex_target({T, S});
    for (Index i = 0; i < target.size(); ++i) complex_target[i] = target[i];
    Conventions conventions;
    conventions.kl_reduction = KlReduction::mean;
    conventions.kl_coefficient = 0.7;
    const auto q = random_array({T, 4, 6}, "q");
    const auto k = random_array({S, 6}, "k");
    const auto w = random_array({T, 4}, "w");
    const auto exact = indexer_kl_loss(as_tensor<Exact>(q), as_tensor<Exact>(k), as_tensor<Exact>(w),
                                       causal_candidates(target), conventions);
    CHECK(exact.loss[0] > 0.0);
    const auto check = [&](const Tensor<Exact>& gradient, int which) {
        for (Index i = 0; i < gradient.size(); ++i) {
            auto cq = as_tensor<ComplexStep>(q);
            auto ck = as_tensor<ComplexStep>(k);
            auto cw = as_tensor<ComplexStep>(w);
            Tensor<ComplexStep>& moved = which == 0 ? cq : which == 1 ? ck : cw;
            moved[i] += std::complex<double>(0.0, 1e-200);
            const auto loss = indexer_kl_loss(cq, ck, cw, causal_candidates(complex_target), conventions).loss[0];
            CHECK(std::fabs(loss.imag() / 1e-200 - gradient[i]) <= rounding * 16);

            const auto at = [&](double step) {
                auto eq = as_tensor<Exact>(q);
                auto ek = as_tensor<Exact>(k);
                auto ew = as_tensor<Exact>(w);
                (which == 0 ? eq : which == 1 ? ek : ew)[i] += step;
                return indexer_kl_loss(eq, ek, ew, causal_candidates(target), conventions).loss[0];
            };
            // h = 2^-17: h^2 of truncation and u / h of rounding are both near 2^-34; 2^-26 leaves room for third
            // derivatives of some hundreds.
            CHECK(std::fabs((at(0x1p-17) - at(-0x1p-17)) * 0x1p16 - gradient[i]) <= 0x1p-26);
        }
    };
    check(exact.dq, 0);
    check(exact.dk, 1);
    check(exact.dweights, 2);
    // A perfect indexer has no loss: the target is its own softmax.
    auto perfect = causal_candidates(target);
    for (Index t = 0; t < T; ++t) {
        auto& [positions, p] = perfect[static_cast<std::size_t>(t)];
        Eigen::Array<double, 1, Eigen::Dynamic> scores(positions.size());
        for (std::size_t i = 0; i < positions.size(); ++i) {
            double score = 0.0;
            for (Index j = 0; j < 4; ++j)
                score += static_cast<double>(w(t, j)) *
                         relu(ordered_dot(as_tensor<Exact>(q).row(t, j), as_tensor<Exact>(k).row(positions[i])));
            scores(static_cast<Index>(i)) = score;
        }
        const Softmax<Exact> softmax(scores);
        for (std::size_t i = 0; i < p.size(); ++i) p[i] = softmax.exponentials(static_cast<Index>(i)) / softmax.sum;
    }
    const auto none =
        indexer_kl_loss(as_tensor<Exact>(q), as_tensor<Exact>(k), as_tensor<Exact>(w), perfect, Conventions{});
    CHECK(std::fabs(none.loss[0]) <= rounding);
    CHECK(largest_magnitude(none.dq) <= rounding);
}

TEST_CASE("gradients of sparse attention equal complex steps, duplicates and shared tokens included") {
    const Index d_v = 5;
    const auto q = random_array({3, 2, 8}, "q");
    const auto kv = random_array({9, 8}, "kv");
    const auto dout = random_tensor<Exact>({3, 2, d_v}, "dout");
    const Array<std::int32_t> indices({3, 4}, std::vector<std::int32_t>{1, 3, 3, 7, 3, 4, -1, 99, -1, -1, -1, -1});
    const auto forward = sparse_attention(as_tensor<Exact>(q), as_tensor<Exact>(kv), indices, 0.4, d_v);
    const auto gradient = sparse_attention_backward(as_tensor<Exact>(q), as_tensor<Exact>(kv), indices, forward.out,
                                                    forward.lse, dout, 0.4);
    const auto slope = [&](int which, Index i) {
        auto cq = as_tensor<ComplexStep>(q);
        auto ckv = as_tensor<ComplexStep>(kv);
        (which == 0 ? cq : ckv)[i] += std::complex<double>(0.0, 1e-200);
        const auto out = sparse_attention(cq, ckv, indices, 0.4, d_v).out;
        double sum = 0.0;
        for (Index j = 0; j < out.size(); ++j) sum += out[j].imag() / 1e-200 * dout[j];
        return sum;
    };
    for (Index i = 0; i < gradient.dq.size(); ++i) CHECK(std::fabs(slope(0, i) - gradient.dq[i]) <= rounding * 8);
    for (Index i = 0; i < gradient.dkv.size(); ++i) CHECK(std::fabs(slope(1, i) - gradient.dkv[i]) <= rounding * 8);
    CHECK(largest_magnitude(gradient.dkv) > 0.01);
}
