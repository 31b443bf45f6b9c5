// Does a step of decoding over pages give what attention over the whole sequence gives, and does it write each new
// token's bytes into its slot and nothing else?
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/optimized/serving.h"

namespace {

using namespace dsa;
using namespace dsa::testing;

using Step = StepOf<dsa_serving_step_args>;

}  // namespace

TEST_CASE("steps from prefilled pages and from none give what the whole sequences give, bit for bit at level 1") {
    const AtLevel plain(1);
    Layer layer(tiny);
    steps_give_what_sequences_give<dsa_serving_step_args, dsa_dsa_attention_args>(layer);
}

TEST_CASE("tokens without a slot are not written, and a request that is not there gets nothing") {
    for (const int level : {1, 0}) {
        CAPTURE(level);
        const AtLevel parts(level);
        Layer layer(tiny);
        // Not there; beyond its table, behind which a page of another's stands; of one token, the step's second; a
        // page of no number; a page beyond the pool; with a NaN among its keys.
        Pool pool(tiny, 5, 2, {3, 3, 2, 0, 1, -1, -1, -1, 5, 0x7fffffff, 4, -1});
        std::fill(pool.kv.begin(), pool.kv.end(), std::uint8_t{0x3C});  // in each format a number like another
        std::fill(pool.k.begin(), pool.k.begin() + 4 * tiny.page_bytes(), std::uint8_t{0});
        Pool expected = pool;
        Step step(layer, pool, 2, through_fp8);
        step.x = layer.normal(step.B * 2 * tiny.D);
        step.args.x = tensor_of(step.x, {step.B * 2, tiny.D});
        step.lens = {0, 2 * page + 2, 1, 3, 2, 3};
        const Stages stages;
        step.run();
        const auto topk = stages.of<std::int32_t>("topk_indices");
        const auto written = packed(tiny, stages.of<bf16>("c_kv"), stages.of<bf16>("k_rope"),
                                    stages.of<e4m3>("indexer_k"), stages.of<float>("indexer_k_scale"), through_fp8);
        expected.place(2, 0, written[5]);
        expected.place(5, 1, written[10]);
        expected.place(5, 2, written[11]);
        CHECK(pool == expected);
        std::vector<std::int32_t> none(static_cast<std::size_t>(tiny.topk), -1), marked = none;
        marked[0] = -2;  // a NaN at position 0
        for (const std::int64_t t : {0, 1, 4}) CHECK(row(topk, t, tiny.topk) == none);
        CHECK(row(topk, 5, tiny.topk)[0] == 0);
        for (const std::int64_t t : {6, 7, 8, 9, 10, 11}) CHECK(row(topk, t, tiny.topk) == marked);
        for (std::int64_t t = 0; t < 2 * step.B; ++t)
            for (const bf16 y : row(step.y, t, tiny.D))
                CHECK((t == 2 || t == 3 || t == 5 ? std::isfinite(number(y)) : number(y) == 0.0F));
    }
}

TEST_CASE("at the levels that its parts choose, each stage is what float64 makes of the stage before") {
    for (const bool hopper_sums : {false, true})
        for (const std::int64_t s_q : {1, 2}) {
            CAPTURE(hopper_sums);
            CAPTURE(s_q);
            const char* about = hopper_sums ? R"({"conventions": {"fp8_sums": "hopper"}})" : through_fp8;
            Layer layer(usual);
            const std::vector<std::int32_t> before{63, 0, 128};
            Pool pool(usual, 8, 3, {6, 1, -1, 7, -1, -1, 0, 5, 3});
            for (std::int64_t b = 0; b < 3; ++b) {
                const std::int64_t S = before[static_cast<std::size_t>(b)];
                std::vector<e4m3> keys;
                for (const bf16 x : layer.normal(S * usual.D_I, 40.0))
                    keys.push_back({simulator::rounded_to_e4m3(number(x))});
                std::vector<float> scales;
                for (const float x : layer.floats(S, 0.0F)) scales.push_back(0.01F + std::fabs(x));
                const auto tokens = S == 0 ? std::vector<CachedToken>{}
                                           : packed(usual, layer.normal(S * usual.R_kv),
                                                    layer.normal(S * usual.d_rope), keys, scales, about);
                for (std::int64_t s = 0; s < S; ++s) pool.place(b, s, tokens[static_cast<std::size_t>(s)]);
            }
            Pool expected = pool;
            Step step(layer, pool, s_q, about);
            step.x = layer.normal(3 * s_q * usual.D);
            step.args.x = tensor_of(step.x, {3 * s_q, usual.D});
            for (std::size_t b = 0; b < 3; ++b) step.lens[b] = before[b] + static_cast<std::int32_t>(s_q);
            const Stages stages;
            step.run();
            const auto written = packed(usual, stages.of<bf16>("c_kv"), stages.of<bf16>("k_rope"),
                                        stages.of<e4m3>("indexer_k"), stages.of<float>("indexer_k_scale"), about);
            const Judge judge{layer, pool, step, stages, hopper_sums};
            for (std::int64_t t = 0; t < 3 * s_q; ++t)
                expected.place(t / s_q, judge.position(t), written[static_cast<std::size_t>(t)]);
            CHECK(pool == expected);
            judge.scores_and_choice();
            judge.attention();
            judge.output();
        }
}

TEST_CASE("what a step refuses, it says") {
    Layer layer(tiny);
    Pool pool(tiny, 4, 2, {3, 2, 1, 0});
    Step step(layer, pool, 2, nullptr);
    step.lens = {2, 2};
    const auto refused = [&](int status, const std::string& sentence, auto&& spoil) {
        dsa_serving_step_args args = step.args;
        spoil(args);
        CHECK(dsa_serving_step(&args) == status);
        CHECK(holds(dsa_last_error(), sentence));
    };
    const Pool before = pool;
    refused(1, "x must have s_q rows for each of the 2 requests of block_table; it has 3",
            [](auto& a) { a.x.shape[0] = a.positions.shape[0] = 3; });
    refused(1, "axis 0 of context_lens, B, must be 2", [](auto& a) { a.context_lens.shape[0] = 1; });
    refused(1, "axis 2 of kv_pages, token_bytes, must be 24", [](auto& a) {
        a.kv_pages.shape[2] = 23;
        a.kv_pages.stride[1] = 23;
        a.kv_pages.stride[0] = 64 * 23;
    });
    refused(1, "axis 1 of kv_pages, 64, must be 64", [](auto& a) { a.kv_pages.shape[1] = 32; });
    refused(1, "axis 0 of k_pages, pages, must be 4", [](auto& a) { a.k_pages.shape[0] = 3; });
    refused(1, "axis 1 of k_pages, page_bytes, must be 768", [](auto& a) { a.k_pages.shape[1] = 767; });
    refused(1, "k_pages must be uint8; it is int32", [](auto& a) { a.k_pages.dtype = dsa_int32; });
    refused(1, "the tensor block_table is missing", [](auto& a) { a.block_table.data = nullptr; });
    refused(1, "needs the parameter topk", [](auto& a) { a.topk = 0; });
    refused(1, "the convention quantizer must not be none",
            [](auto& a) { a.case_json = R"({"conventions": {"quantizer": "none"}})"; });
    refused(1, "workspace", [](auto& a) { --a.workspace_bytes; });
    refused(2, "kv_pages must begin at a multiple of 16 bytes",
            [](auto& a) { a.kv_pages.data = static_cast<std::uint8_t*>(a.kv_pages.data) + 8; });
    {
        const AtLevel no_such(3);
        refused(77, "serving_step has the levels 1 and 2; there is no level 3", [](auto&) {});
    }
    CHECK(pool == before);
    CHECK(dsa_serving_step(&step.args) == 0);
}
