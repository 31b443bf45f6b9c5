// Attention of a few new tokens over selected tokens of the FP8 cache. spec sections 5 and 10.
//
// level 1  one block a head: a thread scores a token, then sums columns
// level 2  a token is dequantised once for 64 heads; tensor cores
// level 3  a request is split over blocks
// level 4  producer warps that convert by moving bits; wgmma
// level 5  which slots count is found meanwhile
// level 6  two blocks of a cluster convert half of the tokens each
// level 7  three tiles: p v of one beside the softmax of the next
// level 8  a tile a block, all warps at the same thing: for a query or two
// level 9  at most 32 heads: tokens are the products' rows, heads their columns
// level 10 codes go through registers into the tensor cores: no converted tile
#pragma once

#include "optimized/attention/result.h"

namespace dsa {

struct SparseDecode {
    const bf16* q;                      // [B, s_q, H, d], d = R_kv + d_rope
    const std::uint8_t* kv_pages;       // [pages, 64, token_bytes]
    const std::int32_t* indices;        // [B, s_q, k], global slots: page x 64 + offset
    AttentionResult result;             // out [B, s_q, H, R_kv], lse [B, s_q, H]
    std::int64_t rows, slots, H, d, k;  // rows: B s_q, slots: 64 x pages
    int R_kv;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;

    int block() const { return R_kv < 128 ? R_kv : 128; }
    std::int64_t token_bytes() const { return R_kv + std::int64_t{4} * (R_kv / block()) + 2 * (d - R_kv); }
};

// The chosen level, for layers that hold such a call.
void sparse_decode(const SparseDecode& call);
std::int64_t sparse_decode_workspace(const SparseDecode& call);

std::int64_t sparse_decode_workspace_1(const SparseDecode& call);

void sparse_decode_level_1(const SparseDecode& call);
void sparse_decode_level_2(const SparseDecode& call);
std::string sparse_decode_level_2_declines(const SparseDecode& call);
void sparse_decode_level_3(const SparseDecode& call);
std::int64_t sparse_decode_workspace_3(const SparseDecode& call);
void sparse_decode_level_4(const SparseDecode& call);
std::string sparse_decode_level_4_declines(const SparseDecode& call);
std::int64_t sparse_decode_workspace_4(const SparseDecode& call);
void sparse_decode_level_5(const SparseDecode& call);
std::string sparse_decode_level_5_declines(const SparseDecode& call);
std::int64_t sparse_decode_workspace_5(const SparseDecode& call);
void sparse_decode_level_6(const SparseDecode& call);
std::string sparse_decode_level_6_declines(const SparseDecode& call);
void sparse_decode_level_7(const SparseDecode& call);
std::string sparse_decode_level_7_declines(const SparseDecode& call);
std::int64_t sparse_decode_workspace_7(const SparseDecode& call);
void sparse_decode_level_8(const SparseDecode& call);
std::string sparse_decode_level_8_declines(const SparseDecode& call);
std::int64_t sparse_decode_workspace_8(const SparseDecode& call);
void sparse_decode_level_9(const SparseDecode& call);
std::string sparse_decode_level_9_declines(const SparseDecode& call);
std::int64_t sparse_decode_workspace_9(const SparseDecode& call);
void sparse_decode_level_10(const SparseDecode& call);
std::string sparse_decode_level_10_declines(const SparseDecode& call);
std::int64_t sparse_decode_workspace_10(const SparseDecode& call);

}  // namespace dsa
