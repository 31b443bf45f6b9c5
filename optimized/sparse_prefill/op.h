// Attention of every query over its selected latents only. spec section 5.
//
// level 1  one block a head: a thread scores a position, then sums columns
// level 2  a row is gathered once for 64 heads; tensor cores
// level 3  wgmma; a warpgroup gathers, one scores, two weigh
// level 4  three tiles of 48 keys; p v waits for the next q k^T and runs beside its softmax; part of q in registers
// level 5  two warpgroups score tiles in turn and weigh, so that the softmax of one is beside products of the other
// level 6  which slots count is decided inside, by the warpgroup that gathers
// level 7  at most 16 heads: tokens are the products' rows, heads their columns
// level 8  at most 32 heads, on wgmma: keys are the rows, in pieces of tiles
// level 9  levels 6 and 8, and a last round of few blocks is cut in parts of selections
#pragma once

#include "optimized/attention/result.h"

namespace dsa {

struct SparsePrefill {
    const bf16* q;                // [T, H, d]
    const bf16* kv;               // [S, d]; the first d_v columns are the value
    const std::int32_t* indices;  // [T, k]
    AttentionResult result;       // out [T, H, d_v], lse and max_logit [T, H]
    std::int64_t T, S, H, d, d_v, k;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

// The chosen level, for layers that hold such a call.
void sparse_prefill(const SparsePrefill& call);
std::int64_t sparse_prefill_workspace(const SparsePrefill& call);

std::int64_t sparse_prefill_workspace_1(const SparsePrefill& call);  // of levels 1 to 5
void sparse_prefill_level_1(const SparsePrefill& call);
void sparse_prefill_level_2(const SparsePrefill& call);
std::string sparse_prefill_level_2_declines(const SparsePrefill& call);
void sparse_prefill_level_3(const SparsePrefill& call);
std::string sparse_prefill_level_3_declines(const SparsePrefill& call);
void sparse_prefill_level_4(const SparsePrefill& call);
void sparse_prefill_level_5(const SparsePrefill& call);
void sparse_prefill_level_6(const SparsePrefill& call);
std::string sparse_prefill_level_6_declines(const SparsePrefill& call);
void sparse_prefill_level_7(const SparsePrefill& call);
std::string sparse_prefill_level_7_declines(const SparsePrefill& call);
void sparse_prefill_level_8(const SparsePrefill& call);
std::string sparse_prefill_level_8_declines(const SparsePrefill& call);
std::int64_t sparse_prefill_workspace_9(const SparsePrefill& call);
void sparse_prefill_level_9(const SparsePrefill& call);
std::string sparse_prefill_level_9_declines(const SparsePrefill& call);

}  // namespace dsa
