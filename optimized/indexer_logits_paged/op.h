// indexer_logits with keys from pages: 64 keys of D_I e4m3 bytes, and behind all of them their 64 float32 scales.
// Token s of request b lies in page block_table[b, s / 64]. Query i of s_q stands at context_len - s_q + i and sees
// the keys up to its own. spec sections 3 and 10.
//
// No page is read that is not there: where block_table names none, the scores of its 64 tokens are NaN. A context_len
// is cut to [0, 64 P].
//
// level 1  one thread a key
// level 2  tensor cores: a request's queries share the keys, which stay in registers
// level 3  wgmma, with Hopper's sums: a warp brings pages, two warpgroups score every second one
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct IndexerLogitsPaged {
    const e4m3* q;                     // [B, s_q, H_I, D_I]
    const std::uint8_t* k_pages;       // [pages, 64 (D_I + 4)]
    const std::int32_t* block_table;   // [B, P]
    const std::int32_t* context_lens;  // [B]
    const float* weights;              // [B s_q, H_I]
    float* logits;                     // [B s_q, 64 P]
    std::int64_t B, s_q, pages, P;
    int H_I, D_I;
    bool bf16_scores, hopper_sums;
    Stream stream;
};

// The chosen level, for layers that hold such a call.
void indexer_logits_paged(const IndexerLogitsPaged& call);

void indexer_logits_paged_level_1(const IndexerLogitsPaged& call);
void indexer_logits_paged_level_2(const IndexerLogitsPaged& call);
std::string indexer_logits_paged_level_2_declines(const IndexerLogitsPaged& call);
void indexer_logits_paged_level_3(const IndexerLogitsPaged& call);
std::string indexer_logits_paged_level_3_declines(const IndexerLogitsPaged& call);

}  // namespace dsa
