// What a call says beside its tensors: parameters and conventions, from case_json. Where a name means nothing it is
// refused; where one is missing it has the contract's default.
#pragma once

#include <string>

#include "optimized/support/refusal.h"

namespace dsa {

enum class Quantizer { deepseek, flashmla, vllm, no_floor, none };
enum class RopeLayout { half_split, interleaved };

// The same switches as docs/09-conventions.md; the defaults are DeepSeek-V3.2-Exp's.
struct Conventions {
    RopeLayout indexer_rope = RopeLayout::half_split;
    bool hadamard = true;
    Quantizer quantizer = Quantizer::deepseek;
    bool ue8m0 = true;  // scale_format
    bool weights_proj_bf16 = true;
    bool indexer_scores_bf16 = false;
    bool hopper_fp8_sums = false;  // fp8_sums
    bool kv_latent_fp8 = false;
    Quantizer kv_quantizer = Quantizer::flashmla;
    bool gate_bias = true;
    double router_eps = 0.0;
    bool lse_base2 = false;
    bool empty_row_plus_infinity = false;
    bool target_renormalised = false;  // sparse_kl_target
    bool kl_mean = false;              // kl_reduction
    double kl_coefficient = 1.0;
    bool yarn_mscale_in_indexer = false;
    RopeLayout mla_rope_output = RopeLayout::interleaved;
    bool nan_as_minus_infinity = false;  // nan_scores
};

// Rotary frequencies' parameters, spec section 2.
struct RopeParameters {
    double theta = 10000.0;
    double factor = 40.0;
    double beta_fast = 32.0;
    double beta_slow = 1.0;
    double original_context = 4096.0;
    double max_context = 163840.0;
    double mscale = 1.0;

    bool uses_yarn() const { return max_context > original_context && factor > 1.0; }
    // 0.1 mscale ln(factor) + 1 with YaRN, else 1
    double yarn_mscale() const;
};

class Case {
   public:
    // json: the call's case_json, or NULL for defaults throughout.
    explicit Case(const char* json);
    ~Case();
    Case(const Case&) = delete;
    Case& operator=(const Case&) = delete;

    const Conventions& conventions() const { return conventions_; }
    const RopeParameters& rope() const { return rope_; }
    // A parameter: from case_json; else from the struct's field where that is not 0; else the default.
    double number(const std::string& name, double field, double otherwise) const;
    std::int64_t whole(const std::string& name, std::int64_t field, std::int64_t otherwise) const;
    bool flag(const std::string& name, std::int64_t field, bool otherwise) const;
    RopeLayout layout(const std::string& name, RopeLayout otherwise) const;
    std::string text(const std::string& name, const std::string& otherwise) const;
    // MLA's softmax scale, (d_nope + d_rope)^-0.5 m^2, unless the case or the field gives one.
    double softmax_scale(double field, std::int64_t d_nope, std::int64_t d_rope) const;

   private:
    struct Json;
    Case();
    Json* json_;  // its own; <memory> would be a third of what a kernel's source reads
    Conventions conventions_;
    RopeParameters rope_;
};

}  // namespace dsa
