// Attention over all positions: on the shared latent (MQA mode), or with each head's own keys and values (MHA mode).
// spec sections 2 and 5.
//
// level 1  one block a head: a thread scores a position, then sums columns
// level 2  a key is brought once for 64 rows of q; tensor cores
// level 3  MQA on wgmma: two warpgroups score tiles in turn, and a cluster's two blocks share them
// level 4  MHA on wgmma: q k^T of the next tile ahead of p v of this one
#pragma once

#include "optimized/attention/result.h"

namespace dsa {

struct DenseAttention {
    const bf16* q;              // [T, H, d]
    const bf16* keys;           // MQA: kv [S, d]   MHA: k [S, H, d]
    const bf16* values;         // MQA: kv again    MHA: v [S, H, d_v]
    const std::int32_t* start;  // [T], or null
    AttentionResult result;     // out [T, H, d_v], lse [T, H]
    std::int64_t T, S, H, d, d_v;
    bool mqa, causal;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

void dense_attention_level_1(const DenseAttention& call);
void dense_attention_level_2(const DenseAttention& call);
std::string dense_attention_level_2_declines(const DenseAttention& call);
void dense_attention_level_3(const DenseAttention& call);
std::string dense_attention_level_3_declines(const DenseAttention& call);
std::int64_t dense_attention_level_3_workspace(const DenseAttention& call);
void dense_attention_level_4(const DenseAttention& call);
std::string dense_attention_level_4_declines(const DenseAttention& call);

}  // namespace dsa
