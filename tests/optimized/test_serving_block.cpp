// Does a step of a whole transformer block over pages give what transformer_block gives of the whole sequences?
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "tests/optimized/serving.h"

namespace {

using namespace dsa;
using namespace dsa::testing;

using Step = StepOf<dsa_serving_block_step_args>;

enum class Net { dense, mixture, mixture_fp8 };
constexpr std::int64_t E = 8, groups = 4, kept_groups = 2, active = 2;
constexpr float route_scale = 2.5F;

// A matrix of e4m3 has one scale for 128 x 128.
struct NetMatrix {
    std::int64_t heads, K, N;
    std::vector<bf16> numbers;
    std::vector<e4m3> e4m3s;
    std::vector<float> scales;

    void set(dsa_tensor& matrix, dsa_tensor& scale, bool of_experts, bool fp8) const {
        if (fp8) {
            matrix = of_experts ? tensor_of(e4m3s, {heads, K, N}) : tensor_of(e4m3s, {K, N});
            scale = of_experts ? tensor_of(scales, {heads, 1, 1}) : tensor_of(scales, {1, 1});
        } else {
            matrix = of_experts ? tensor_of(numbers, {heads, K, N}) : tensor_of(numbers, {K, N});
        }
    }
};

struct BlockLayer : Layer {
    Net net;
    std::int64_t F;
    std::vector<float> attention_norm, ffn_norm, bias;
    std::vector<bf16> W_g;
    NetMatrix gate, up, down, shared_gate, shared_up, shared_down;

    BlockLayer(const Sizes& sizes, Net kind, std::int64_t hidden) : Layer(sizes), net(kind), F(hidden) {
        attention_norm = floats(n.D, 1.0F);
        ffn_norm = floats(n.D, 1.0F);
        bias = floats(E, 0.0F);
        W_g = matrix(n.D, E);
        const std::int64_t heads = net == Net::dense ? 1 : E;
        gate = of_net(heads, n.D, F);
        up = of_net(heads, n.D, F);
        down = of_net(heads, F, n.D);
        shared_gate = of_net(1, n.D, F);
        shared_up = of_net(1, n.D, F);
        shared_down = of_net(1, F, n.D);
    }
    NetMatrix of_net(std::int64_t heads, std::int64_t K, std::int64_t N) {
        NetMatrix made{heads, K, N, normal(heads * K * N, 1.0 / std::sqrt(static_cast<double>(K))), {}, {}};
        for (const bf16 x : made.numbers) made.e4m3s.push_back({simulator::rounded_to_e4m3(16.0F * number(x))});
        for (std::int64_t h = 0; h < heads; ++h) made.scales.push_back(0.0625F * static_cast<float>(1 + h % 3));
        return made;
    }

    template <class Args>
    Args args(const std::vector<bf16>& hidden, const std::vector<std::int32_t>& positions, const std::vector<bf16>& y,
              const char* about) const {
        Args a = Layer::args<Args>(hidden, positions, y, about);
        a.attention_norm = tensor_of(attention_norm, {n.D});
        a.ffn_norm = tensor_of(ffn_norm, {n.D});
        const bool experts = net != Net::dense, fp8 = net == Net::mixture_fp8;
        gate.set(a.W_gate, a.W_gate_scale, experts, fp8);
        up.set(a.W_up, a.W_up_scale, experts, fp8);
        down.set(a.W_down, a.W_down_scale, experts, fp8);
        if (experts) {
            a.W_g = tensor_of(W_g, {n.D, E});
            a.bias = tensor_of(bias, {E});
            shared_gate.set(a.shared_W_gate, a.shared_W_gate_scale, false, fp8);
            shared_up.set(a.shared_W_up, a.shared_W_up_scale, false, fp8);
            shared_down.set(a.shared_W_down, a.shared_W_down_scale, false, fp8);
            a.groups = groups;
            a.kept_groups = kept_groups;
            a.active = active;
            a.route_scale = route_scale;
        }
        return a;
    }
};

}  // namespace

TEST_CASE("steps of a whole block give what transformer_block gives of whole sequences, bit for bit at level 1") {
    for (const Net net : {Net::dense, Net::mixture_fp8}) {
        CAPTURE(static_cast<int>(net));
        const AtLevel plain(1);
        BlockLayer layer(tiny, net, 6);
        steps_give_what_sequences_give<dsa_serving_block_step_args, dsa_transformer_block_args>(layer);
    }
}

namespace {

// float64's account of what stands around attention, each stage of what the stages before it gave.
struct StreamJudge {
    const BlockLayer& layer;
    const Step& step;
    const Stages& stages;

    const Sizes& n = layer.n;
    const std::int64_t T = step.B * step.s_q;
    static double cut(std::int64_t additions) { return static_cast<double>(additions) * 0x1p-23; }

    // A number with what it may be wrong by.
    struct Near {
        double value, error;
        // Rounded to 8 bits: wrong by half of the last at most.
        Near as_bf16() const { return {value, error + 0x1p-8 * (std::fabs(value) + error)}; }
        bool holds(bf16 x) const { return std::fabs(number(x) - value) <= error; }
    };
    using Row = std::vector<Near>;

    void norm(const std::vector<bf16>& from, const std::vector<float>& weight, const char* stage) const {
        const auto shown = stages.of<bf16>(stage);
        for (std::int64_t t = 0; t < T; ++t) {
            double squares = 0.0;
            for (const bf16 x : row(from, t, n.D)) squares += double{number(x)} * number(x);
            const double factor = 1.0 / std::sqrt(squares / static_cast<double>(n.D) + 1e-6);
            for (std::int64_t c = 0; c < n.D; ++c) {
                const auto i = static_cast<std::size_t>(t * n.D + c);
                const double y = number(from[i]) * factor * weight[static_cast<std::size_t>(c)];
                REQUIRE(Near{y, cut(n.D + 4) * std::fabs(y)}.as_bf16().holds(shown[i]));
            }
        }
    }
    void sum(const std::vector<bf16>& a, const std::vector<bf16>& b, const std::vector<bf16>& shown) const {
        std::vector<bf16> expected;
        for (std::size_t i = 0; i < a.size(); ++i) expected.push_back(to_bf16(number(a[i]) + number(b[i])));
        CHECK(bits(shown) == bits(expected));
    }

    static Row product(const Row& x, const NetMatrix& w, std::int64_t head) {
        Row y;
        for (std::int64_t c = 0; c < w.N; ++c) {
            Near sum{0.0, 0.0};
            double magnitude = 0.0;
            for (std::int64_t r = 0; r < w.K; ++r) {
                const double weight = number(w.numbers[static_cast<std::size_t>((head * w.K + r) * w.N + c)]);
                const Near& of_x = x[static_cast<std::size_t>(r)];
                sum.value += of_x.value * weight;
                sum.error += of_x.error * std::fabs(weight);
                magnitude += (std::fabs(of_x.value) + of_x.error) * std::fabs(weight);
            }
            sum.error += cut(w.K) * magnitude;
            y.push_back(sum.as_bf16());
        }
        return y;
    }
    static Row of_expert(const Row& x, const NetMatrix& gate, const NetMatrix& up, const NetMatrix& down,
                         std::int64_t e) {
        constexpr double steepest = 1.1;  // of silu
        const Row g = product(x, gate, e), u = product(x, up, e);
        Row hidden;
        for (std::size_t i = 0; i < g.size(); ++i) {
            const double silu = g[i].value / (1.0 + std::exp(-g[i].value));
            const double value = silu * u[i].value;
            const double error = steepest * g[i].error * (std::fabs(u[i].value) + u[i].error) +
                                 std::fabs(silu) * u[i].error + 0x1p-18 * std::fabs(value);
            hidden.push_back(Near{value, error}.as_bf16());
        }
        return product(hidden, down, e);
    }

    // The gate in float64: experts in the order of their biased scores, of the groups whose two best are best.
    void choice(const std::vector<bf16>& x, std::int64_t t, const std::vector<std::int32_t>& ids,
                const std::vector<float>& weights) const {
        std::vector<double> scores, biased, of_groups;
        for (std::int64_t e = 0; e < E; ++e) {
            double logit = 0.0;
            for (std::int64_t c = 0; c < n.D; ++c)
                logit += double{number(x[static_cast<std::size_t>(c)])} *
                         number(layer.W_g[static_cast<std::size_t>(c * E + e)]);
            scores.push_back(1.0 / (1.0 + std::exp(-logit)));
            biased.push_back(scores.back() + layer.bias[static_cast<std::size_t>(e)]);
        }
        constexpr std::int64_t size = E / groups;  // two experts: both are the group's best
        for (std::int64_t g = 0; g < groups; ++g)
            of_groups.push_back(biased[static_cast<std::size_t>(g * size)] +
                                biased[static_cast<std::size_t>(g * size + 1)]);
        std::vector<double> best_groups = of_groups;
        std::sort(best_groups.rbegin(), best_groups.rend());
        std::vector<std::pair<double, std::int32_t>> candidates;
        for (std::int32_t e = 0; e < E; ++e)
            if (of_groups[static_cast<std::size_t>(e / size)] >= best_groups[kept_groups - 1])
                candidates.emplace_back(biased[static_cast<std::size_t>(e)], e);
        std::sort(candidates.rbegin(), candidates.rend());
        double sum = 0.0;
        for (std::int64_t i = 0; i < active; ++i)
            sum += scores[static_cast<std::size_t>(candidates[static_cast<std::size_t>(i)].second)];
        for (std::int64_t i = 0; i < active; ++i) {
            const auto at = static_cast<std::size_t>(t * active + i);
            const std::int32_t e = candidates[static_cast<std::size_t>(i)].second;
            CHECK(ids[at] == e);
            const double weight = scores[static_cast<std::size_t>(e)] / sum * double{route_scale};
            REQUIRE(std::fabs(weights[at] - weight) <= 1e-5 * weight);
        }
    }

    void net() const {
        const auto x = stages.of<bf16>("ffn_input"), shown = stages.of<bf16>("ffn_y");
        std::vector<std::int32_t> ids;
        std::vector<float> weights;
        if (layer.net == Net::mixture) {
            ids = stages.of<std::int32_t>("expert_ids");
            weights = stages.of<float>("expert_weights");
        }
        for (std::int64_t t = 0; t < T; ++t) {
            Row input;
            for (const bf16 one : row(x, t, n.D)) input.push_back({number(one), 0.0});
            Row y;
            if (layer.net == Net::dense) {
                y = of_expert(input, layer.gate, layer.up, layer.down, 0);
            } else {
                choice(row(x, t, n.D), t, ids, weights);
                y = of_expert(input, layer.shared_gate, layer.shared_up, layer.shared_down, 0);
                std::vector<double> magnitude;
                for (const Near& of_shared : y) magnitude.push_back(std::fabs(of_shared.value) + of_shared.error);
                for (std::int64_t i = 0; i < active; ++i) {
                    const auto at = static_cast<std::size_t>(t * active + i);
                    const Row out = of_expert(input, layer.gate, layer.up, layer.down, ids[at]);
                    for (std::size_t c = 0; c < y.size(); ++c) {
                        y[c].value += weights[at] * out[c].value;
                        y[c].error += weights[at] * out[c].error;
                        magnitude[c] += weights[at] * (std::fabs(out[c].value) + out[c].error);
                    }
                }
                for (std::size_t c = 0; c < y.size(); ++c) {
                    y[c].error += cut(active + 1) * magnitude[c];
                    y[c] = y[c].as_bf16();
                }
            }
            for (std::int64_t c = 0; c < n.D; ++c)
                REQUIRE(y[static_cast<std::size_t>(c)].holds(shown[static_cast<std::size_t>(t * n.D + c)]));
        }
    }

    void all() const {
        norm(step.x, layer.attention_norm, "attention_input");
        const auto middle = stages.of<bf16>("after_attention"), after = stages.of<bf16>("after_ffn");
        sum(step.x, stages.of<bf16>("attention_y"), middle);
        norm(middle, layer.ffn_norm, "ffn_input");
        net();
        sum(middle, stages.of<bf16>("ffn_y"), after);
        CHECK(bits(step.y) == bits(after));
    }
};

// Three requests in the middle of their texts, whose pages hold numbers like a layer's.
struct Served {
    std::vector<std::int32_t> before{63, 0, 128};
    Pool pool;

    Served(BlockLayer& layer, const char* about) : pool(layer.n, 8, 3, {6, 1, -1, 7, -1, -1, 0, 5, 3}) {
        const Sizes& n = layer.n;
        for (std::int64_t b = 0; b < 3; ++b) {
            const std::int64_t S = before[static_cast<std::size_t>(b)];
            if (S == 0) continue;
            std::vector<e4m3> keys;
            for (const bf16 x : layer.normal(S * n.D_I, 40.0))
                keys.push_back({simulator::rounded_to_e4m3(number(x))});
            std::vector<float> scales;
            for (const float x : layer.floats(S, 0.0F)) scales.push_back(0.01F + std::fabs(x));
            const auto tokens = packed(n, layer.normal(S * n.R_kv), layer.normal(S * n.d_rope), keys, scales, about);
            for (std::int64_t s = 0; s < S; ++s) pool.place(b, s, tokens[static_cast<std::size_t>(s)]);
        }
    }
};

}  // namespace

TEST_CASE("at the levels that its parts choose, each stage of a block is what float64 makes of the stage before") {
    for (const Net net : {Net::dense, Net::mixture})
        for (const std::int64_t s_q : {1, 2}) {
            CAPTURE(static_cast<int>(net));
            CAPTURE(s_q);
            BlockLayer layer(usual, net, 64);
            Served served(layer, through_fp8);
            Step step(layer, served.pool, s_q, through_fp8);
            const auto hidden = layer.normal(3 * s_q * usual.D);
            std::copy(hidden.begin(), hidden.end(), step.x.begin());
            for (std::size_t b = 0; b < 3; ++b) step.lens[b] = served.before[b] + static_cast<std::int32_t>(s_q);
            const Stages stages;
            step.run();
            const Judge attention{layer, served.pool, step, stages, false};
            attention.scores_and_choice();
            attention.attention();
            attention.output();
            StreamJudge{layer, step, stages}.all();
        }
}

TEST_CASE("requests that are not there change nothing, and y may lie in hidden's place") {
    for (const Net net : {Net::dense, Net::mixture, Net::mixture_fp8})
        for (const int level : {1, 0}) {
            CAPTURE(static_cast<int>(net));
            CAPTURE(level);
            const AtLevel parts(level);
            BlockLayer layer(level == 1 ? tiny : usual, net, level == 1 ? 6 : 64);
            const std::int64_t D = layer.n.D;
            Served served(layer, through_fp8);
            Pool again = served.pool;
            const auto hidden = layer.normal(3 * D);
            Step step(layer, served.pool, 1, through_fp8);
            std::copy(hidden.begin(), hidden.end(), step.x.begin());
            step.lens = {64, 0, 129};
            step.run();
            CHECK(std::isfinite(number(row(step.y, 1, D)[0])));

            // A request that is not there may hold anything, and the others' bits stay the same.
            Step other(layer, again, 1, through_fp8);
            std::copy(hidden.begin(), hidden.end(), other.x.begin());
            std::fill(other.x.begin() + D, other.x.begin() + 2 * D, bf16{0x7FFF});
            other.lens = step.lens;
            other.run();
            for (const std::int64_t b : {0, 2}) CHECK(bits(row(other.y, b, D)) == bits(row(step.y, b, D)));
            CHECK(again == served.pool);

            // The same step once more: it writes the same tokens into the same slots.
            std::vector<bf16> stream = hidden;
            step.args.hidden = step.args.y = tensor_of(stream, {3, D});
            REQUIRE(dsa_serving_block_step(&step.args) == 0);
            CHECK(bits(stream) == bits(step.y));
            CHECK(again == served.pool);
        }
}

TEST_CASE("what a step of a block refuses, it says") {
    BlockLayer layer(tiny, Net::mixture, 6);
    Pool pool(tiny, 4, 2, {3, 2, 1, 0});
    Step step(layer, pool, 2, nullptr);
    step.lens = {2, 2};
    const auto refused = [&](int status, const std::string& sentence, auto&& spoil) {
        dsa_serving_block_step_args args = step.args;
        spoil(args);
        CHECK(dsa_serving_block_step(&args) == status);
        CHECK(holds(dsa_last_error(), sentence));
    };
    const Pool before = pool;
    refused(1, "hidden must have s_q rows for each of the 2 requests of block_table; it has 3",
            [](auto& a) { a.hidden.shape[0] = a.positions.shape[0] = 3; });
    refused(1, "the tensor hidden is missing", [](auto& a) { a.hidden.data = nullptr; });
    refused(1, "hidden must be bfloat16; it is float32", [](auto& a) { a.hidden.dtype = dsa_float32; });
    refused(1, "axis 0 of ffn_norm, D, must be 12", [](auto& a) { a.ffn_norm.shape[0] = 11; });
    refused(1, "the tensor attention_norm is missing", [](auto& a) { a.attention_norm.data = nullptr; });
    refused(1, "axis 0 of context_lens, B, must be 2", [](auto& a) { a.context_lens.shape[0] = 1; });
    refused(1, "k_pages must be uint8; it is int32", [](auto& a) { a.k_pages.dtype = dsa_int32; });
    refused(1, "the tensor block_table is missing", [](auto& a) { a.block_table.data = nullptr; });
    refused(1, "needs the parameter topk", [](auto& a) { a.topk = 0; });
    refused(1, "W_gate must have 2 axes", [](auto& a) { a.W_g.data = nullptr; });
    refused(1, "the tensor W_up is missing", [](auto& a) { a.W_up.data = nullptr; });
    refused(1, "the tensor shared_W_down is missing", [](auto& a) { a.shared_W_down.data = nullptr; });
    refused(1, "active must be from 1 to the 8 experts; it is 9", [](auto& a) { a.active = 9; });
    refused(1, "axis 0 of y, T, must be 4", [](auto& a) { a.y.shape[0] = 2; });
    refused(1, "the convention quantizer must not be none",
            [](auto& a) { a.case_json = R"({"conventions": {"quantizer": "none"}})"; });
    refused(1, "workspace", [](auto& a) { --a.workspace_bytes; });
    refused(2, "hidden must begin at a multiple of 16 bytes",
            [](auto& a) { a.hidden.data = static_cast<std::uint8_t*>(a.hidden.data) + 8; });
    {
        const AtLevel no_such(3);
        refused(77, "serving_block_step has the levels 1 and 2; there is no level 3", [](auto&) {});
        CHECK(dsa_serving_block_step_workspace(&step.args) == -77);
    }
    CHECK(pool == before);
    CHECK(dsa_serving_block_step(&step.args) == 0);
}
