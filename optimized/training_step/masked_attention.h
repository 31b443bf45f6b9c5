// Attention with each head's own keys and values, where a selection is a set of allowed pairs: the products run over
// whole score matrices, as dense_mha_backward's do, for as many heads at a time as fit. Beside the result it gives
// what the indexer learns from, the heads' probabilities together.
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct MaskedAttention {
    const bf16* q;                   // [T, H, d]
    const bf16* k;                   // [T, H, d]
    const bf16* v;                   // [T, H, d_v]
    const std::uint32_t* selectors;  // [T, selector_words(T)], attention/selectors.h; null: all causal pairs
    bf16* out;                       // [T, H, d_v]
    float* lse;                      // [T, H], natural; NaN where no pair is allowed
    float* target;                   // [T, T]: probabilities, mean over heads; null where nobody learns from them
    std::int64_t T, H, d, d_v;
    float scale;
    // The target is made of each head's softmax over all causal positions, restricted to the allowed ones and scaled
    // to sum to one. Else: of its softmax over the allowed ones.
    bool renormalised;
    std::int64_t most_bytes;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

void masked_attention(const MaskedAttention& call, int level);
std::int64_t masked_attention_workspace(const MaskedAttention& call);

// Its middle. scores: [heads, T, T], which become each head's part of the target; p: [heads, T, T], 0 where a pair is
// not allowed. lse: of matrix h, row t: lse[t H + h]
void masked_softmax(const MaskedAttention& call, float* scores, bf16* p, float* lse, std::int64_t heads);
// target += the parts of `heads` heads; the first ones are where the sum begins, and after the last it is scaled.
void add_to_target(const MaskedAttention& call, const float* parts, std::int64_t first, std::int64_t heads);

}  // namespace dsa
