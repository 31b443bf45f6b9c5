// Conventions are read by name, one switch at a time, and nothing unknown is taken.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "reference/conventions.h"
#include "reference/refusal.h"

using namespace dsa;
using nlohmann::json;

TEST_CASE("every preset comes back from its switches") {
    CHECK(preset_names().size() == 6);
    for (const std::string& name : preset_names()) {
        const json all = to_json(preset(name));
        CHECK(to_json(conventions_from_json(all)) == all);
        CHECK(to_json(conventions_from_json(json(name))) == all);
        CHECK(to_json(conventions_from_json(json{{"preset", name}})) == all);
    }
}

TEST_CASE("each switch is read alone and changes nothing else") {
    const json defaults = to_json(Conventions{});
    const json other{{"indexer_rope", "interleaved"},
                     {"hadamard", false},
                     {"quantizer", "vllm"},
                     {"scale_format", "float32"},
                     {"weights_proj", "float32"},
                     {"indexer_scores", "bf16"},
                     {"kv_latent_fp8", true},
                     {"kv_quantizer", "deepseek"},
                     {"gate_bias", false},
                     {"router_eps", 1e-20},
                     {"lse", "base2"},
                     {"empty_row_lse", "+inf"},
                     {"sparse_kl_target", "renormalised"},
                     {"kl_reduction", "mean"},
                     {"kl_coefficient", 0.5},
                     {"yarn_mscale_in_indexer", true},
                     {"mla_rope_output", "half_split"},
                     {"fp8_sums", "hopper"},
                     {"nan_scores", "-inf"}};
    CHECK(other.size() == defaults.size());
    for (const auto& [name, value] : other.items()) {
        json expected = defaults;
        CHECK_MESSAGE(defaults.contains(name), name);
        CHECK_MESSAGE(expected[name] != value, name);
        expected[name] = value;
        CHECK_MESSAGE(to_json(conventions_from_json(json{{name, value}})) == expected, name);
    }
}

TEST_CASE("the unknown is refused by a sentence") {
    CHECK_THROWS_WITH_AS(preset("v3"),
                         "there is no preset of conventions named \"v3\"; there are deepseek-v3.2-exp, "
                         "deepseek-v3.2, transformers, vllm, sglang, flashmla",
                         Refusal);
    CHECK_THROWS_WITH_AS(conventions_from_json(json{{"lse", "base10"}}),
                         "the convention lse must be one of natural, base2; got \"base10\"", Refusal);
    CHECK_THROWS_WITH_AS(conventions_from_json(json{{"hadamard", 1}}),
                         "the convention hadamard must be true or false; got 1", Refusal);
    CHECK_THROWS_WITH_AS(conventions_from_json(json{{"router_eps", "x"}}),
                         "the convention router_eps must be a number; got \"x\"", Refusal);
    CHECK_THROWS_AS(conventions_from_json(json{{"Hadamard", true}}), Refusal);
    CHECK_THROWS_WITH_AS(conventions_from_json(json(3)),
                         "conventions must be a preset's name or an object of switches; got 3", Refusal);
}
