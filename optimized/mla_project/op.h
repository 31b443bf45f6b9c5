// From hidden states to what MLA compares: latents, and rotated parts that stand LAST in a head. spec section 2.
//   c_q = RMSNorm(x W_dq);   q = c_q W_uq, per head nope then rope;   x W_dkv = latent then rope;   c_kv =
//   RMSNorm(latent)
//
// level 1  stage by stage: each product in plain tiles, then norms and turns
// level 2  the same stages, products on the tensor cores, norms and turns a row or a token at once
// level 3  products at linear's level 3: tensor copies and wgmma
#pragma once

#include "optimized/support/call.h"
#include "optimized/support/rotary.h"

namespace dsa {

struct MlaProject {
    const bf16* x;                  // [T, D]
    const std::int32_t* positions;  // [T]
    const bf16* W_dq;               // [D, R_q]
    const float* q_norm;            // [R_q]
    const bf16* W_uq;               // [R_q, H, d_nope + d_rope]
    const bf16* W_dkv;              // [D, R_kv + d_rope]
    const float* kv_norm;           // [R_kv]
    bf16* c_q;                      // [T, R_q]
    bf16* q_nope;                   // [T, H, d_nope]
    bf16* q_rope;                   // [T, H, d_rope]
    bf16* c_kv;                     // [T, R_kv]
    bf16* k_rope;                   // [T, d_rope]
    std::int64_t T, D, R_q, H, R_kv, d_nope, d_rope;
    float eps;
    RopeTable rope;
    RopeLayout rope_output;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

// The chosen level, for layers that hold such a call.
void mla_project(const MlaProject& call);
std::int64_t mla_project_workspace(const MlaProject& call);

}  // namespace dsa
