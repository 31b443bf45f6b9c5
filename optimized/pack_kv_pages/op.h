// The FP8 cache of keys and values: a token is R_kv e4m3 bytes, a float32 scale a block of 128, d_rope bf16. spec
// section 10. Tokens past the last one of the last page are zeros.
//
// level 1  one warp a token
#pragma once

#include "optimized/support/call.h"
#include "optimized/support/case.h"

namespace dsa {

struct PackKvPages {
    const bf16* kv;         // [S, d], d = R_kv + d_rope
    std::uint8_t* pages;    // [pages, 64, token_bytes]
    std::int64_t S, slots;  // slots: 64 x pages
    int d, R_kv;
    Quantizer quantizer;
    bool ue8m0;
    Stream stream;

    int block() const { return R_kv < 128 ? R_kv : 128; }
    int blocks() const { return R_kv / block(); }
    int token_bytes() const { return R_kv + 4 * blocks() + 2 * (d - R_kv); }
};

void pack_kv_pages_level_1(const PackKvPages& call);

}  // namespace dsa
