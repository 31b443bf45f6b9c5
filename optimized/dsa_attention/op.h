// DeepSeek Sparse Attention from normalised hidden states to what is added to them: projections, indexer, selection,
// attention over the selected latents, output projection. spec sections 2 to 5.
//
// level 1  every part at its level 1; the scores of all candidates in memory
// level 2  every part at its highest; the selection without a [T, S] tensor
#pragma once

#include "optimized/indexer_logits/op.h"
#include "optimized/indexer_project/op.h"
#include "optimized/mla_project/op.h"
#include "optimized/sparse_prefill/op.h"
#include "optimized/top_k/op.h"

namespace dsa {

// A weight of the heads, bf16 or float32: one of the two.
struct HeadWeight {
    const bf16* as_bf16;
    const float* as_float32;
};

struct DsaAttention {
    MlaProject mla;             // all but its outputs and workspace
    IndexerProject indexer;     // likewise; c_q comes from mla
    HeadWeight W_uk;            // [R_kv, H, d_nope]
    HeadWeight W_uv;            // [R_kv, H, d_v]
    HeadWeight W_o;             // [H, d_v, D]
    const std::int32_t* start;  // [T], each query's first candidate, or null
    // The C tokens before; null where C is 0.
    const bf16* cache_kv;        // [C, d]
    const void* cache_k;         // [C, D_I], e4m3, or bf16 for Quantizer::none
    const float* cache_k_scale;  // [C]
    bf16* y;                     // [T, D]
    std::int64_t T, C, d_v, topk;
    AttentionResult attention;  // scale and conventions
    bool bf16_scores, hopper_sums, nan_as_minus_infinity;
    bool latent_fp8;  // the cached latent goes through e4m3
    Quantizer kv_quantizer;
    bool ue8m0;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;

    std::int64_t S() const { return C + T; }
    std::int64_t d() const { return mla.R_kv + mla.d_rope; }
};

void dsa_attention_level_1(const DsaAttention& call);
std::int64_t dsa_attention_level_1_workspace(const DsaAttention& call);
void dsa_attention_level_2(const DsaAttention& call);
std::int64_t dsa_attention_level_2_workspace(const DsaAttention& call);

// All stages, each at `level` or, where it does not take the call, below.
void dsa_attention_chain(const DsaAttention& call, int level);
std::int64_t dsa_attention_chain_workspace(const DsaAttention& call, int level);

// What the chain does between its parts.

// to[0, bytes) = from
void copy_bytes(const void* from, void* to, std::int64_t bytes, Stream stream);
// kv [T, R_kv + d_rope] = c_kv and k_rope side by side, the latent through e4m3 and back where call.latent_fp8
void cache_latents(const DsaAttention& call, const bf16* c_kv, const bf16* k_rope, bf16* kv);
// start_t and end_t of each query's candidates. Both [T]
void causal_candidates(const DsaAttention& call, std::int32_t* start, std::int32_t* end);
// The last d_rope numbers of each head's query. q_rope [T, H, d_rope] -> q [T, H, R_kv + d_rope]
void append_rope(const DsaAttention& call, const bf16* q_rope, bf16* q);

}  // namespace dsa
