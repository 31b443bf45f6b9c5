// Every convention that differs between real systems, as one switch of one struct. spec section 9.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace dsa {

enum class RopeLayout { half_split, interleaved };
enum class Quantizer {
    deepseek,  // amax floored at 1e-4
    flashmla,  // scale floored at 1e-4
    vllm,      // amax floored at the smallest normal float32
    no_floor,  // an all-zero block gives scale 0 and NaN
    none,      // values stay as they are, scale 1
};
enum class ScaleFormat { float32, ue8m0 };
enum class Stored { float32, bf16 };
enum class SparseKlTarget { softmax_on_set, renormalised };
enum class KlReduction { sum, mean };
enum class LogBase { natural, base2 };
enum class EmptyRowLse { minus_infinity, plus_infinity };
enum class NanScores { error, minus_infinity };
enum class Fp8Sums { float32, hopper };  // what dots of e4m3 numbers are added in

struct Conventions {
    RopeLayout indexer_rope = RopeLayout::half_split;
    bool hadamard = true;
    Quantizer quantizer = Quantizer::deepseek;  // of the indexer's queries and keys
    ScaleFormat scale_format = ScaleFormat::ue8m0;
    Stored weights_proj = Stored::bf16;            // dtype in which x W_w leaves the projection
    Stored indexer_scores = Stored::float32;       // dtype of the logits that selection sees
    Fp8Sums fp8_sums = Fp8Sums::float32;           // of the logits' dots; hopper: 13 bits, numerics/tensor_cores.h
    bool kv_latent_fp8 = false;                    // c_kv through e4m3 before attention
    Quantizer kv_quantizer = Quantizer::flashmla;  // ... by this quantiser
    bool gate_bias = true;                         // false: a group's score is its maximum
    double router_eps = 0.0;                       // added to the sum that normalises expert weights
    LogBase lse = LogBase::natural;
    EmptyRowLse empty_row_lse = EmptyRowLse::minus_infinity;
    SparseKlTarget sparse_kl_target = SparseKlTarget::softmax_on_set;
    KlReduction kl_reduction = KlReduction::sum;
    double kl_coefficient = 1.0;
    bool yarn_mscale_in_indexer = false;                   // a known error of ports: MLA's scale alone has it
    RopeLayout mla_rope_output = RopeLayout::interleaved;  // half_split: pairs leave de-interleaved
    NanScores nan_scores = NanScores::error;
};

// deepseek-v3.2-exp, deepseek-v3.2, transformers, vllm, sglang, flashmla
std::vector<std::string> preset_names();
Conventions preset(const std::string& name);

// A preset's name, or an object of switches over a base: {"preset": NAME, switch: value, ...}.
// An unknown preset, switch or value is refused with the ones there are.
Conventions conventions_from_json(const nlohmann::json& json);

// All switches, by name.
nlohmann::json to_json(const Conventions& conventions);

}  // namespace dsa
