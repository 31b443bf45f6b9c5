// One layer: attention and a feed-forward net, each on a normalised copy, each added to the residual stream, which is
// stored as bf16 after each addition. The net is a mixture of experts where there is a gate, else a dense one.
//
// level 1  every part at its level 1; the scores of all candidates in memory
// level 2  every part at its highest; the selection without a [T, S] tensor
#pragma once

#include "optimized/dsa_attention/op.h"
#include "optimized/moe/op.h"

namespace dsa {

// What a block is around its attention, wherever that finds its context.
struct ResidualStream {
    const bf16* hidden;           // [T, D]
    const float* attention_norm;  // [D]
    const float* ffn_norm;        // [D]
    bool is_mixture;
    Moe moe;            // of a mixture: all but x, y and workspace
    FeedForward dense;  // else
    bf16* y;            // [T, D]
    std::int64_t T, D;
    float eps;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

struct TransformerBlock : ResidualStream {
    DsaAttention attention;  // all but x, y and workspace
};

void transformer_block_level_1(const TransformerBlock& call);
std::int64_t transformer_block_level_1_workspace(const TransformerBlock& call);
void transformer_block_level_2(const TransformerBlock& call);
std::int64_t transformer_block_level_2_workspace(const TransformerBlock& call);

// All stages, each at `level` or, where it does not take the call, below.
void transformer_block_chain(const TransformerBlock& call, int level);
std::int64_t transformer_block_chain_workspace(const TransformerBlock& call, int level);

// y = a + b, stored as bf16. [count]
void add(const bf16* a, const bf16* b, bf16* y, std::int64_t count, Stream stream);

}  // namespace dsa
