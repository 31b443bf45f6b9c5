// Where attention's results go, and by which conventions they are told.
#pragma once

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"

namespace dsa {

struct AttentionResult {
    bf16* out;           // [rows, H, d_v]
    float* lse;          // [rows, H]
    float* max_logit;    // [rows, H], or null
    const float* sink;   // [H], or null
    float scale;         // of softmax
    bool base2;          // lse in base 2
    bool plus_infinity;  // lse of a query that sees nothing
};

inline AttentionResult result_of(const Case& about, double scale) {
    AttentionResult result{};
    constexpr std::int64_t d_nope = 128, d_rope = 64;  // V3.2's, where the call says no scale
    result.scale = static_cast<float>(about.softmax_scale(scale, d_nope, d_rope));
    result.base2 = about.conventions().lse_base2;
    result.plus_infinity = about.conventions().empty_row_plus_infinity;
    return result;
}

}  // namespace dsa
