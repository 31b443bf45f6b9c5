// Gradients of dense attention in MHA mode, which training uses: each head has its own keys and values. The five
// products run over whole score matrices, for as many heads at a time as fit into the scratch. spec sections 2 and 5.
//
// level 1  products of plain tiles
// level 2  the same on the tensor cores
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct DenseMhaBackward {
    const bf16* q;              // [T, H, d]
    const bf16* k;              // [S, H, d]
    const bf16* v;              // [S, H, d_v]
    const bf16* out;            // [T, H, d_v]
    const float* lse;           // [T, H], natural
    const bf16* dout;           // [T, H, d_v]
    const std::int32_t* start;  // [T], or null
    bf16* dq;                   // [T, H, d]
    bf16* dk;                   // [S, H, d]; null where dk_float32 is given
    bf16* dv;                   // [S, H, d_v]
    std::int64_t T, S, H, d, d_v;
    bool causal;
    float scale;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
    // For a layer whose selection is a set of pairs (attention/selectors.h), and which adds dk up further; its out
    // and lse are those of q, k and v.
    const std::uint32_t* selectors = nullptr;  // [S, selector_words(T)], or null
    float* dk_float32 = nullptr;               // [S, H, d]
    // Of score matrices at once: so many heads at a time, but at least one.
    std::int64_t most_bytes = std::int64_t{1} << 30;
};

// All products at `level`, or below where it does not take one.
void dense_mha_backward_chain(const DenseMhaBackward& call, int level);
std::int64_t dense_mha_backward_workspace(const DenseMhaBackward& call);

void dense_mha_backward_level_1(const DenseMhaBackward& call);
void dense_mha_backward_level_2(const DenseMhaBackward& call);

}  // namespace dsa
