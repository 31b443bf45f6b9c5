// What the indexer learns from: the attention probabilities of all heads together, scaled to sum to one. spec
// section 7.
//
// level 1  a thread a position: each head's softmax, then the sum over heads
// level 2  a tile of keys for 64 heads; tensor cores
#pragma once

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"

namespace dsa {

struct AttentionTarget {
    const bf16* q;                // [T, H, d]
    const bf16* kv;               // [S, d]
    const std::int32_t* indices;  // [T, k], or null: all causal positions
    float* p;                     // [T, n], n = k or S
    std::int64_t T, S, H, d, n;
    float scale;
    bool renormalised;  // softmax over all causal positions, then restricted to the set
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

std::int64_t attention_target_workspace(const AttentionTarget& call);

void attention_target_level_1(const AttentionTarget& call);
void attention_target_level_2(const AttentionTarget& call);
std::string attention_target_level_2_declines(const AttentionTarget& call);

}  // namespace dsa
