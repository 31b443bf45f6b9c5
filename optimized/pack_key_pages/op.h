// Pages of indexer keys: 64 keys of D_I e4m3 bytes, and behind all of them their 64 float32 scales. spec section 10.
// Keys and scales past the last one are zeros.
//
// level 1  one block a page
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct PackKeyPages {
    const e4m3* k;         // [S, D_I]
    const float* k_scale;  // [S]
    std::uint8_t* pages;   // [pages, 64 D_I + 256]
    std::int64_t S, pages_count;
    int D_I;
    Stream stream;
};

void pack_key_pages_level_1(const PackKeyPages& call);

}  // namespace dsa
