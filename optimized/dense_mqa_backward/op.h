// Gradients of dense attention in MQA mode, on the latent that all heads share: its gradient gathers from all heads
// and queries. A row of a score matrix is a query with one of its heads; the queries come some at a time, and what
// they give to the latents is added in their order. spec sections 2 and 5.
//
// level 1  products of plain tiles
// level 2  the same on the tensor cores
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct DenseMqaBackward {
    const bf16* q;              // [T, H, d]
    const bf16* kv;             // [S, d]; the first d_v columns are the value
    const bf16* out;            // [T, H, d_v]
    const float* lse;           // [T, H], natural
    const bf16* dout;           // [T, H, d_v]
    const std::int32_t* start;  // [T], or null
    bf16* dq;                   // [T, H, d]
    float* dkv;                 // [S, d]
    std::int64_t T, S, H, d, d_v;
    bool causal;
    float scale;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
    // Of score matrices at once: so many queries at a time, but at least one.
    std::int64_t most_bytes = std::int64_t{1} << 30;
};

// All products at `level`, or below where it does not take one.
void dense_mqa_backward_chain(const DenseMqaBackward& call, int level);
std::int64_t dense_mqa_backward_workspace(const DenseMqaBackward& call);

void dense_mqa_backward_level_1(const DenseMqaBackward& call);
void dense_mqa_backward_level_2(const DenseMqaBackward& call);

}  // namespace dsa
