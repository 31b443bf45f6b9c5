// One step of decoding: the forward of an attention block, or of a whole transformer block, for the new tokens of
// many requests, whose context lies in pages. The new tokens are written into their slots, and nothing of the context
// is copied. What a caller sees of it, and the rules of slots and lengths, is dsa_serving.h's.
//
// It has no ladder: at level 1 every part is at its level 1, else at the level that it chooses.
#pragma once

#include "optimized/dsa_attention/op.h"
#include "optimized/serving/dsa_serving.h"
#include "optimized/transformer_block/op.h"

namespace dsa {

struct ServingStep {
    DsaAttention block;                // of B s_q tokens, without a cache of its own, workspace or candidates
    std::uint8_t* kv_pages;            // [pages, 64, token_bytes]
    std::uint8_t* k_pages;             // [pages, 64 (D_I + 4)]
    const std::int32_t* block_table;   // [B, P]
    const std::int32_t* context_lens;  // [B], new tokens included
    std::int64_t B, s_q, pages, P;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

inline constexpr std::int64_t page_of_tokens = 64;

void serving_step(const ServingStep& call);
std::int64_t serving_step_workspace(const ServingStep& call);

// A whole block: the residual stream around attention over pages.
struct ServingBlockStep : ResidualStream {
    ServingStep attention;  // all but x, y and workspace
};

void serving_block_step(const ServingBlockStep& call);
std::int64_t serving_block_step_workspace(const ServingBlockStep& call);

// 1, or, where each part chooses for itself, 0. Refuses a chosen level that a step does not have.
int level_of_parts(const char* step);

// What the chain does between its parts.

// A new token of the latent cache and of the indexer's, before it has a slot.
struct NewTokens {
    const bf16* c_kv;      // [B s_q, R_kv]
    const bf16* k_rope;    // [B s_q, d_rope]
    const e4m3* k;         // [B s_q, D_I]
    const float* k_scale;  // [B s_q]
};
// Each new token into its slot of both caches; start and end of its query's candidates, both [B s_q].
void append_to_pages(const ServingStep& call, const NewTokens& tokens, std::int32_t* start, std::int32_t* end);
// positions [B s_q, topk] -> slots, page x 64 + offset; -1 where a position is none or has no page
void slots_of_positions(const ServingStep& call, const std::int32_t* positions, std::int32_t* slots);

}  // namespace dsa
