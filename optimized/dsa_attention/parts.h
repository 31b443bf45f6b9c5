// What an attention block does with its new tokens, wherever their context lies: the parts that dsa_attention and the
// serving step have in common. Each stage is shown where it has come to be.
#pragma once

#include "optimized/dsa_attention/op.h"
#include "optimized/support/arena.h"

namespace dsa::attention_block {

struct Scratch {
    bf16 *c_q, *q_nope, *q_rope, *c_kv, *k_rope;
    void* indexer_q;        // [T, H_I, D_I]
    float* q_scale;         // [T, H_I]
    float* head_weights;    // [T, H_I]
    std::int32_t* indices;  // [T, topk]
    bf16* q;                // [T, H, d]
    bf16* out;              // [T, H, R_kv]
    float* lse;             // [T, H]
    bf16* heads;            // [T, H, d_v]
    void* of_parts;         // workspace of one part after the other
    std::int64_t of_parts_bytes;
};

inline bool quantises(const DsaAttention& call) { return call.indexer.quantizer != Quantizer::none; }
inline std::int64_t key_bytes(const DsaAttention& call) { return call.indexer.D_I * (quantises(call) ? 1 : 2); }

// All but the parts' workspace, of which mla_project and indexer_project need projection_bytes().
Scratch lay_out(Arena& arena, const DsaAttention& call);
std::int64_t projection_bytes(const DsaAttention& call);

void project(const DsaAttention& call, const Scratch& s);
// The indexer's queries and head weights, and the new tokens' keys: k [T, D_I], k_scale [T].
void project_indexer(const DsaAttention& call, const Scratch& s, void* k, float* k_scale);
// MQA mode: the key's up-projection is absorbed into the query, q = [q_nope W_uk^T, q_rope].
void absorb(const DsaAttention& call, const Scratch& s, int level);
// Each head's latent mean up by W_uv, the heads side by side, times W_o.
void project_output(const DsaAttention& call, const Scratch& s, int level);

}  // namespace dsa::attention_block
