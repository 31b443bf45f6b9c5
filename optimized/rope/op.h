// RoPE: pair i of a head is turned by position x frequency i. spec sections 2 and 3; YaRN is in the frequencies.
//
// level 1  one thread a pair of a token: sine and cosine once, then all heads
// level 2  one block a token: the turns in shared memory, 16 bytes of output a thread
#pragma once

#include "optimized/support/call.h"
#include "optimized/support/rotary.h"

namespace dsa {

struct RotaryEmbedding {
    const bf16* x;                  // [T, N, d_rope]
    const std::int32_t* positions;  // [T]
    bf16* y;                        // [T, N, d_rope]
    std::int64_t T, N;
    RopeTable table;
    RopeLayout layout, output_layout;
    Stream stream;
};

void rope_level_1(const RotaryEmbedding& call);
void rope_level_2(const RotaryEmbedding& call);
std::string rope_level_2_declines(const RotaryEmbedding& call);

}  // namespace dsa
