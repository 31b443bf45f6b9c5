// What the tests of serving steps share: a layer of random weights, both pools with what each token's bytes must be,
// a step over them, and float64's account of attention's stages.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "optimized/serving/dsa_serving.h"
#include "optimized/simulator/numbers.h"
#include "optimized/support/arguments.h"
#include "optimized/support/at_level.h"
#include "tests/optimized/kernels.h"

namespace dsa::testing {

constexpr std::int64_t page = 64;
constexpr std::uint8_t mark = 0xFF;  // as e4m3, bf16 and float32: NaN, which nobody may read

inline float number(bf16 x) { return __uint_as_float(std::uint32_t{x.bits} << 16); }
inline float number(e4m3 x) { return simulator::number_of_e4m3(x.bits); }
inline bf16 to_bf16(float x) { return {simulator::rounded_to_bf16(x)}; }

template <class T>
dsa_tensor tensor_of(const std::vector<T>& data, std::initializer_list<std::int64_t> shape) {
    dsa_tensor tensor{const_cast<T*>(data.data()), dtype_of<T>, static_cast<std::int32_t>(shape.size()), {}, {}};
    std::copy(shape.begin(), shape.end(), tensor.shape);
    std::int64_t stride = 1;
    for (int i = tensor.rank; i-- > 0; stride *= tensor.shape[i]) tensor.stride[i] = stride;
    return tensor;
}

// What a call has shown, by name.
class Stages {
   public:
    Stages() { dsa_show(listen, this); }
    ~Stages() { dsa_show(nullptr, nullptr); }
    Stages(const Stages&) = delete;
    Stages& operator=(const Stages&) = delete;

    template <class T>
    std::vector<T> of(const std::string& name) const {
        REQUIRE(shown_.contains(name));
        const auto& bytes = shown_.at(name);
        std::vector<T> numbers(bytes.size() / sizeof(T));
        std::memcpy(numbers.data(), bytes.data(), bytes.size());
        return numbers;
    }

   private:
    static void listen(void* self, const char* name, const dsa_tensor* tensor, void*) {
        std::int64_t count = 1;
        for (int i = 0; i < tensor->rank; ++i) count *= tensor->shape[i];
        const std::int64_t width = tensor->dtype == dsa_bfloat16 ? 2 : tensor->dtype == dsa_float8_e4m3 ? 1 : 4;
        const auto* bytes = static_cast<const std::uint8_t*>(tensor->data);
        static_cast<Stages*>(self)->shown_[name] = {bytes, bytes + count * width};
    }
    std::map<std::string, std::vector<std::uint8_t>> shown_;
};

struct Sizes {
    std::int64_t D, R_q, H, R_kv, d_nope, d_rope, d_v, H_I, D_I, topk;

    std::int64_t d() const { return R_kv + d_rope; }
    std::int64_t token_bytes() const { return R_kv + 4 * (R_kv / std::min<std::int64_t>(R_kv, 128)) + 2 * d_rope; }
    std::int64_t page_bytes() const { return page * (D_I + 4); }
};

// A token's bytes are no multiple of 16, nor any row: level 1 alone takes all of it.
constexpr Sizes tiny{12, 10, 2, 12, 6, 4, 5, 2, 8, 16};
// One that the faster levels take too.
constexpr Sizes usual{64, 64, 4, 512, 32, 64, 32, 8, 64, 24};

struct Layer {
    Sizes n;
    std::mt19937 generator{5};
    std::vector<bf16> W_dq, W_uq, W_dkv, W_uk, W_uv, W_o, W_qI, W_kI, W_w;
    std::vector<float> q_norm, kv_norm, k_norm, k_bias;

    explicit Layer(const Sizes& sizes) : n(sizes) {
        W_dq = matrix(n.D, n.R_q);
        W_uq = matrix(n.R_q, n.H * (n.d_nope + n.d_rope));
        W_dkv = matrix(n.D, n.d());
        W_uk = matrix(n.R_kv, n.H * n.d_nope);
        W_uv = matrix(n.R_kv, n.H * n.d_v);
        W_o = matrix(n.H * n.d_v, n.D);
        W_qI = matrix(n.R_q, n.H_I * n.D_I);
        W_kI = matrix(n.D, n.D_I);
        W_w = matrix(n.D, n.H_I);
        q_norm = floats(n.R_q, 1.0F);
        kv_norm = floats(n.R_kv, 1.0F);
        k_norm = floats(n.D_I, 1.0F);
        k_bias = floats(n.D_I, 0.0F);
    }

    std::vector<bf16> normal(std::int64_t count, double deviation = 1.0) {
        std::normal_distribution<double> draw(0.0, deviation);
        std::vector<bf16> numbers(static_cast<std::size_t>(count));
        for (bf16& x : numbers) x = to_bf16(static_cast<float>(draw(generator)));
        return numbers;
    }
    std::vector<bf16> matrix(std::int64_t K, std::int64_t N) {
        return normal(K * N, 1.0 / std::sqrt(static_cast<double>(K)));
    }
    std::vector<float> floats(std::int64_t count, float around) {
        std::normal_distribution<float> draw(around, 0.25F);
        std::vector<float> numbers(static_cast<std::size_t>(count));
        for (float& x : numbers) x = draw(generator);
        return numbers;
    }

    // What the flat op and the step have in common of a call. x: [T, D], normalised, or a whole block's hidden
    template <class Args>
    Args args(const std::vector<bf16>& x, const std::vector<std::int32_t>& positions, const std::vector<bf16>& y,
              const char* about) const {
        const auto T = static_cast<std::int64_t>(positions.size());
        Args a{};
        if constexpr (requires { a.x; })
            a.x = tensor_of(x, {T, n.D});
        else
            a.hidden = tensor_of(x, {T, n.D});
        a.positions = tensor_of(positions, {T});
        a.W_dq = tensor_of(W_dq, {n.D, n.R_q});
        a.q_norm = tensor_of(q_norm, {n.R_q});
        a.W_uq = tensor_of(W_uq, {n.R_q, n.H, n.d_nope + n.d_rope});
        a.W_dkv = tensor_of(W_dkv, {n.D, n.d()});
        a.kv_norm = tensor_of(kv_norm, {n.R_kv});
        a.W_uk = tensor_of(W_uk, {n.R_kv, n.H, n.d_nope});
        a.W_uv = tensor_of(W_uv, {n.R_kv, n.H, n.d_v});
        a.W_o = tensor_of(W_o, {n.H, n.d_v, n.D});
        a.W_qI = tensor_of(W_qI, {n.R_q, n.H_I, n.D_I});
        a.W_kI = tensor_of(W_kI, {n.D, n.D_I});
        a.k_norm = tensor_of(k_norm, {n.D_I});
        a.k_bias = tensor_of(k_bias, {n.D_I});
        a.W_w = tensor_of(W_w, {n.D, n.H_I});
        a.y = tensor_of(y, {T, n.D});
        a.topk = n.topk;
        a.case_json = about;
        return a;
    }
};

// A token as both caches hold it.
struct CachedToken {
    std::vector<std::uint8_t> kv, key, key_scale;
};

// The bytes that pack_kv_pages and pack_key_pages make of a sequence, token by token.
inline std::vector<CachedToken> packed(const Sizes& n, const std::vector<bf16>& c_kv, const std::vector<bf16>& k_rope,
                                       const std::vector<e4m3>& k, const std::vector<float>& k_scale,
                                       const char* about) {
    const auto S = static_cast<std::int64_t>(k_scale.size());
    const std::int64_t pages = (S + page - 1) / page;
    std::vector<bf16> kv;
    for (std::int64_t s = 0; s < S; ++s) {
        kv.insert(kv.end(), c_kv.begin() + s * n.R_kv, c_kv.begin() + (s + 1) * n.R_kv);
        kv.insert(kv.end(), k_rope.begin() + s * n.d_rope, k_rope.begin() + (s + 1) * n.d_rope);
    }
    std::vector<std::uint8_t> kv_pages(static_cast<std::size_t>(pages * page * n.token_bytes()));
    std::vector<std::uint8_t> k_pages(static_cast<std::size_t>(pages * n.page_bytes()));
    dsa_pack_kv_pages_args latents{};
    latents.kv = tensor_of(kv, {S, n.d()});
    latents.kv_pages = tensor_of(kv_pages, {pages, page, n.token_bytes()});
    latents.R_kv = n.R_kv;
    latents.case_json = about;
    REQUIRE(dsa_pack_kv_pages(&latents) == 0);
    dsa_pack_key_pages_args keys{};
    keys.k = tensor_of(k, {S, n.D_I});
    keys.k_scale = tensor_of(k_scale, {S});
    keys.k_pages = tensor_of(k_pages, {pages, n.page_bytes()});
    keys.case_json = about;
    REQUIRE(dsa_pack_key_pages(&keys) == 0);

    std::vector<CachedToken> tokens;
    for (std::int64_t s = 0; s < S; ++s) {
        const auto* token = kv_pages.data() + s * n.token_bytes();
        const auto* of_page = k_pages.data() + s / page * n.page_bytes();
        const auto* key = of_page + s % page * n.D_I;
        const auto* scale = of_page + page * n.D_I + s % page * 4;
        tokens.push_back({{token, token + n.token_bytes()}, {key, key + n.D_I}, {scale, scale + 4}});
    }
    return tokens;
}

// Both caches of all requests.
struct Pool {
    Sizes n;
    std::int64_t pages, P;
    std::vector<std::int32_t> table;  // [B, P]
    std::vector<std::uint8_t> kv, k;

    Pool(const Sizes& sizes, std::int64_t count, std::int64_t width, std::vector<std::int32_t> block_table)
        : n(sizes),
          pages(count),
          P(width),
          table(std::move(block_table)),
          kv(static_cast<std::size_t>(count * page * sizes.token_bytes()), mark),
          k(static_cast<std::size_t>(count * sizes.page_bytes()), mark) {}

    std::int64_t page_of(std::int64_t b, std::int64_t position) const {
        return table[static_cast<std::size_t>(b * P + position / page)];
    }
    std::uint8_t* token(std::int64_t b, std::int64_t position) {
        return kv.data() + (page_of(b, position) * page + position % page) * n.token_bytes();
    }
    std::uint8_t* key(std::int64_t b, std::int64_t position) {
        return k.data() + page_of(b, position) * n.page_bytes() + position % page * n.D_I;
    }
    std::uint8_t* key_scale(std::int64_t b, std::int64_t position) {
        return k.data() + page_of(b, position) * n.page_bytes() + page * n.D_I + position % page * 4;
    }
    void place(std::int64_t b, std::int64_t position, const CachedToken& cached) {
        std::copy(cached.kv.begin(), cached.kv.end(), token(b, position));
        std::copy(cached.key.begin(), cached.key.end(), key(b, position));
        std::copy(cached.key_scale.begin(), cached.key_scale.end(), key_scale(b, position));
    }
    bool operator==(const Pool& other) const { return kv == other.kv && k == other.k; }
};

inline int run(const dsa_serving_step_args& args) { return dsa_serving_step(&args); }
inline int run(const dsa_serving_block_step_args& args) { return dsa_serving_block_step(&args); }
inline std::int64_t workspace_of(const dsa_serving_step_args& args) { return dsa_serving_step_workspace(&args); }
inline std::int64_t workspace_of(const dsa_serving_block_step_args& args) {
    return dsa_serving_block_step_workspace(&args);
}

// What B requests give to a step and take from it.
struct Requests {
    std::int64_t B, s_q;
    std::vector<bf16> x, y;  // [B s_q, D]
    std::vector<std::int32_t> positions, lens;
};

// One step of them; a struct whose tensors stay where they are, as a captured graph has them.
template <class Args>
struct StepOf : Requests {
    Args args;
    std::vector<std::uint8_t> workspace;

    template <class OneLayer>
    StepOf(const OneLayer& layer, Pool& pool, std::int64_t queries, const char* about) {
        const Sizes& n = layer.n;
        B = static_cast<std::int64_t>(pool.table.size()) / pool.P;
        s_q = queries;
        x.resize(static_cast<std::size_t>(B * s_q * n.D));
        y.resize(x.size());
        positions.resize(static_cast<std::size_t>(B * s_q));
        lens.resize(static_cast<std::size_t>(B));
        args = layer.template args<Args>(x, positions, y, about);
        args.kv_pages = tensor_of(pool.kv, {pool.pages, page, n.token_bytes()});
        args.k_pages = tensor_of(pool.k, {pool.pages, n.page_bytes()});
        args.block_table = tensor_of(pool.table, {B, pool.P});
        args.context_lens = tensor_of(lens, {B});
        const std::int64_t bytes = workspace_of(args);
        REQUIRE(bytes > 0);
        workspace.resize(static_cast<std::size_t>(bytes));
        args.workspace = workspace.data();
        args.workspace_bytes = bytes;
    }
    void run() {
        for (std::int64_t t = 0; t < B * s_q; ++t)
            positions[static_cast<std::size_t>(t)] =
                std::max<std::int32_t>(0, lens[static_cast<std::size_t>(t / s_q)] - static_cast<std::int32_t>(s_q) +
                                              static_cast<std::int32_t>(t % s_q));
        std::fill(y.begin(), y.end(), bf16{0x7FFF});
        std::fill(workspace.begin(), workspace.end(), mark);
        const int status = testing::run(args);
        INFO(dsa_last_error());
        REQUIRE(status == 0);
    }
};

template <class T>
std::vector<T> row(const std::vector<T>& rows, std::int64_t t, std::int64_t width) {
    return {rows.begin() + t * width, rows.begin() + (t + 1) * width};
}
inline std::vector<int> bits(const std::vector<bf16>& numbers) {
    std::vector<int> all;
    for (const bf16 x : numbers) all.push_back(x.bits);
    return all;
}

inline int run(const dsa_dsa_attention_args& args) { return dsa_dsa_attention(&args); }
inline int run(const dsa_transformer_block_args& args) { return dsa_transformer_block(&args); }
inline std::int64_t workspace_of(const dsa_dsa_attention_args& args) { return dsa_dsa_attention_workspace(&args); }
inline std::int64_t workspace_of(const dsa_transformer_block_args& args) {
    return dsa_transformer_block_workspace(&args);
}

// A request's sequence by the flat op, at once and without a cache.
template <class Args>
struct SequenceOf {
    std::vector<bf16> x, y;
    std::vector<std::int32_t> topk;
    std::vector<CachedToken> cached;

    template <class OneLayer>
    SequenceOf(OneLayer& layer, std::int64_t S, const char* about) : x(layer.normal(S * layer.n.D)), y(x.size()) {
        std::vector<std::int32_t> positions(static_cast<std::size_t>(S));
        std::iota(positions.begin(), positions.end(), 0);
        Args args = layer.template args<Args>(x, positions, y, about);
        std::vector<std::uint8_t> workspace(static_cast<std::size_t>(workspace_of(args)));
        args.workspace = workspace.data();
        args.workspace_bytes = static_cast<std::int64_t>(workspace.size());
        const Stages stages;
        REQUIRE(testing::run(args) == 0);
        topk = stages.of<std::int32_t>("topk_indices");
        cached = packed(layer.n, stages.of<bf16>("c_kv"), stages.of<bf16>("k_rope"), stages.of<e4m3>("indexer_k"),
                        stages.of<float>("indexer_k_scale"), about);
    }
};

// Steps of two and of one token from prefilled pages and from none, of sizes `tiny`, against the whole sequences: bit
// for bit, and after each step every byte of both pools.
template <class OfStep, class Flat, class OneLayer>
void steps_give_what_sequences_give(OneLayer& layer) {
    // Whose scores are bf16: many are equal.
    const char* about = R"({"conventions": "deepseek-v3.2"})";
    // Tokens before, and in all: into a second page between two queries of one step, from nothing, within a page.
    const std::vector<std::int32_t> before{61, 0, 30}, all{68, 7, 37};
    std::vector<SequenceOf<Flat>> sequences;
    for (const std::int32_t S : all) sequences.emplace_back(layer, S, about);
    Pool pool(tiny, 9, 2, {5, 2, 7, -1, 0, -1});
    Pool expected = pool;
    for (std::size_t b = 0; b < 3; ++b)
        for (std::int32_t s = 0; s < before[b]; ++s) {
            pool.place(static_cast<std::int64_t>(b), s, sequences[b].cached[static_cast<std::size_t>(s)]);
            expected.place(static_cast<std::int64_t>(b), s, sequences[b].cached[static_cast<std::size_t>(s)]);
        }
    std::vector<std::int32_t> lens = before;
    StepOf<OfStep> two(layer, pool, 2, about), one(layer, pool, 1, about);
    for (StepOf<OfStep>* step : {&two, &two, &one, &one, &one}) {
        for (std::int64_t t = 0; t < step->B * step->s_q; ++t) {
            const auto b = static_cast<std::size_t>(t / step->s_q);
            const std::int64_t p = lens[b] + t % step->s_q;
            const auto x = row(sequences[b].x, p, tiny.D);
            std::copy(x.begin(), x.end(), step->x.begin() + t * tiny.D);
            expected.place(static_cast<std::int64_t>(b), p, sequences[b].cached[static_cast<std::size_t>(p)]);
        }
        for (std::int32_t& len : lens) len += static_cast<std::int32_t>(step->s_q);
        step->lens = lens;
        const Stages stages;
        step->run();
        CHECK(pool == expected);
        const auto topk = stages.of<std::int32_t>("topk_indices");
        for (std::int64_t t = 0; t < step->B * step->s_q; ++t) {
            CAPTURE(t);
            const auto b = static_cast<std::size_t>(t / step->s_q);
            const std::int64_t p = lens[b] - step->s_q + t % step->s_q;
            CHECK(row(topk, t, tiny.topk) == row(sequences[b].topk, p, tiny.topk));
            CHECK(bits(row(step->y, t, tiny.D)) == bits(row(sequences[b].y, p, tiny.D)));
        }
    }
    CHECK(lens == all);
}

constexpr const char* through_fp8 = R"({"conventions": {"kv_latent_fp8": true}})";

// What a step at the levels that its parts choose has shown, held against float64 of what came before each stage.
struct Judge {
    const Layer& layer;
    Pool& pool;
    const Requests& step;
    const Stages& stages;
    bool hopper_sums;

    const Sizes& n = layer.n;

    std::int64_t position(std::int64_t t) const {
        return step.lens[static_cast<std::size_t>(t / step.s_q)] - step.s_q + t % step.s_q;
    }

    void scores_and_choice() const {
        const auto q = stages.of<e4m3>("indexer_q");
        const auto w = stages.of<float>("indexer_weights");
        const auto logits = stages.of<float>("indexer_logits");
        const auto topk = stages.of<std::int32_t>("topk_indices");
        for (std::int64_t t = 0; t < step.B * step.s_q; ++t) {
            const float* of_row = logits.data() + t * pool.P * page;
            for (std::int64_t s = 0; s <= position(t); ++s) {
                const std::int64_t b = t / step.s_q;
                float scale = 0.0F;
                std::memcpy(&scale, pool.key_scale(b, s), sizeof scale);
                double sum = 0.0, magnitude = 0.0, cut = 0.0;
                for (std::int64_t j = 0; j < n.H_I; ++j) {
                    const double weight = w[static_cast<std::size_t>(t * n.H_I + j)];
                    double dot = 0.0, of_dot = 0.0, largest = 0.0;
                    for (std::int64_t c = 0; c < n.D_I; ++c) {
                        const double product =
                            double{number(q[static_cast<std::size_t>((t * n.H_I + j) * n.D_I + c)])} *
                            number(e4m3{pool.key(b, s)[c]});
                        dot += product;
                        of_dot += std::fabs(product);
                        largest = std::max({largest, std::fabs(dot), std::fabs(product)});
                    }
                    sum += weight * std::max(dot, 0.0);
                    magnitude += std::fabs(weight) * of_dot;
                    // wgmma cuts each of 33 numbers 13 bits below the largest of them, for 32 of c at a time.
                    if (hopper_sums)
                        cut +=
                            std::fabs(weight) * std::ceil(static_cast<double>(n.D_I) / 32) * 33 * 0x1p-13 * largest;
                }
                // An addition may be cut instead of rounded.
                const double bound =
                    std::fabs(scale) * (static_cast<double>(n.D_I + n.H_I + 4) * 0x1p-23 * magnitude + cut);
                REQUIRE(std::fabs(of_row[s] - sum * scale) <= bound);
            }
            std::vector<std::int32_t> best(static_cast<std::size_t>(position(t) + 1));
            std::iota(best.begin(), best.end(), 0);
            std::stable_sort(best.begin(), best.end(), [&](auto a, auto b) { return of_row[a] > of_row[b]; });
            best.resize(std::min(best.size(), static_cast<std::size_t>(n.topk)));
            std::sort(best.begin(), best.end());
            best.resize(static_cast<std::size_t>(n.topk), -1);
            CHECK(row(topk, t, n.topk) == best);
        }
    }

    // Column c of a token as attention reads it: the latent dequantised to bf16.
    double column(std::int64_t b, std::int64_t s, std::int64_t c) const {
        const std::uint8_t* token = pool.token(b, s);
        const std::int64_t block = std::min<std::int64_t>(n.R_kv, 128);
        if (c >= n.R_kv) {
            bf16 x{};
            std::memcpy(&x, token + n.R_kv + 4 * (n.R_kv / block) + 2 * (c - n.R_kv), sizeof x);
            return number(x);
        }
        float scale = 0.0F;
        std::memcpy(&scale, token + n.R_kv + 4 * (c / block), sizeof scale);
        return number(to_bf16(number(e4m3{token[c]}) * scale));
    }

    void attention() const {
        const auto q = stages.of<bf16>("q");
        const auto topk = stages.of<std::int32_t>("topk_indices");
        const auto out = stages.of<bf16>("attention_out");
        const double scale = 1.0 / std::sqrt(static_cast<double>(n.d_nope + n.d_rope)) * yarn * yarn;
        for (std::int64_t row_of_q = 0; row_of_q < step.B * step.s_q * n.H; ++row_of_q) {
            const std::int64_t t = row_of_q / n.H, b = t / step.s_q;
            std::vector<std::int32_t> seen = row(topk, t, n.topk);
            std::erase(seen, -1);
            std::vector<double> logits;
            double largest = -1e300, score_error = 0.0, sum = 0.0;
            for (const std::int32_t s : seen) {
                double score = 0.0, magnitude = 0.0;
                for (std::int64_t c = 0; c < n.d(); ++c) {
                    const double product =
                        number(q[static_cast<std::size_t>(row_of_q * n.d() + c)]) * column(b, s, c);
                    score += product;
                    magnitude += std::fabs(product);
                }
                logits.push_back(score * scale);
                largest = std::max(largest, logits.back());
                score_error =
                    std::max(score_error, static_cast<double>(n.d() + 2) * 0x1p-23 * magnitude * std::fabs(scale));
            }
            for (const double logit : logits) sum += std::exp(logit - largest);
            for (std::int64_t c = 0; c < n.R_kv; ++c) {
                double mean = 0.0, magnitude = 0.0;
                for (std::size_t i = 0; i < seen.size(); ++i) {
                    const double part = std::exp(logits[i] - largest) / sum * column(b, seen[i], c);
                    mean += part;
                    magnitude += std::fabs(part);
                }
                // Each p as bf16; scores, also of the sum below; 2^x; the result as bf16.
                const double bound = magnitude * (0x1p-9 + 3.0 * score_error + 0x1p-18) + 0x1p-9 * std::fabs(mean);
                REQUIRE(std::fabs(number(out[static_cast<std::size_t>(row_of_q * n.R_kv + c)]) - mean) <= bound);
            }
        }
    }

    void output() const {
        const auto out = stages.of<bf16>("attention_out");
        const auto y = stages.of<bf16>("attention_y");
        const std::int64_t width = n.H * n.d_v;
        const auto cut = [](std::int64_t additions) { return static_cast<double>(additions) * 0x1p-23; };
        for (std::int64_t t = 0; t < step.B * step.s_q; ++t) {
            std::vector<double> heads, errors;
            for (std::int64_t h = 0; h < n.H; ++h)
                for (std::int64_t v = 0; v < n.d_v; ++v) {
                    double sum = 0.0, magnitude = 0.0;
                    for (std::int64_t r = 0; r < n.R_kv; ++r) {
                        const double product =
                            double{number(out[static_cast<std::size_t>((t * n.H + h) * n.R_kv + r)])} *
                            number(layer.W_uv[static_cast<std::size_t>((r * n.H + h) * n.d_v + v)]);
                        sum += product;
                        magnitude += std::fabs(product);
                    }
                    heads.push_back(sum);
                    errors.push_back(0x1p-9 * std::fabs(sum) + 1.01 * cut(n.R_kv) * magnitude);
                }
            for (std::int64_t i = 0; i < n.D; ++i) {
                double sum = 0.0, bound = 0.0;
                for (std::int64_t c = 0; c < width; ++c) {
                    const double weight = number(layer.W_o[static_cast<std::size_t>(c * n.D + i)]);
                    sum += heads[static_cast<std::size_t>(c)] * weight;
                    bound += std::fabs(weight) * (errors[static_cast<std::size_t>(c)] +
                                                  1.01 * cut(width) * std::fabs(heads[static_cast<std::size_t>(c)]));
                }
                bound += 0x1p-9 * (std::fabs(sum) + bound);
                REQUIRE(std::fabs(number(y[static_cast<std::size_t>(t * n.D + i)]) - sum) <= bound);
            }
        }
    }

    const double yarn = 0.1 * std::log(40.0) + 1.0;  // of V3.2's rope
};

}  // namespace dsa::testing
