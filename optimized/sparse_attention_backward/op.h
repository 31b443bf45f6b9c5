// Gradients of sparse attention. A latent's gradient gathers from all queries that selected it, always in the order
// of the queries: the same bits in every run. spec section 5.
//
// level 1  dq: one block a head; dkv: one block a latent, which computes its probabilities again
// level 2  tensor cores; what a query gives to its latents is written down for some queries at a time, then added
#pragma once

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"

namespace dsa {

struct SparseAttentionBackward {
    const bf16* q;                // [T, H, d]
    const bf16* kv;               // [S, d]; the first d_v columns are the value
    const std::int32_t* indices;  // [T, k]
    const bf16* out;              // [T, H, d_v]
    const float* lse;             // [T, H], natural
    const bf16* dout;             // [T, H, d_v]
    bf16* dq;                     // [T, H, d]
    float* dkv;                   // [S, d]
    std::int64_t T, S, H, d, d_v, k;
    float scale;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

std::int64_t sparse_attention_backward_workspace_1(const SparseAttentionBackward& call);

void sparse_attention_backward_level_1(const SparseAttentionBackward& call);
void sparse_attention_backward_level_2(const SparseAttentionBackward& call);
std::string sparse_attention_backward_level_2_declines(const SparseAttentionBackward& call);
std::int64_t sparse_attention_backward_workspace_2(const SparseAttentionBackward& call);

}  // namespace dsa
