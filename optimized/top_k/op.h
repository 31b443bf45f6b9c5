// The k best candidates of each row, exactly: higher score first, equal scores by the lower position, -0.0 equal to
// 0.0, -inf after all finite scores; returned by ascending position, -1 in unused slots. Candidates of row t are
// [start_t, end_t), cut to [0, S). spec section 4.
//
// A NaN score. Nothing is read back during a call, so a row tells it by itself: by default its first slot holds -2 -
// s, s being the position of the row's first NaN, and the others -1. No reader of indices takes those for positions,
// and dsa-optimized makes the sentence of them. By the convention nan_scores = -inf a NaN ranks as -inf instead.
//
// level 1  one block a row finds the k-th best by 4 passes, 8 bits of the score's order each, then writes in order
// level 2  16 bytes a load and 11 bits a pass; what can still be among the best moves to shared memory after the
// first
// level 3  a row of up to 16384 scores is read once and stays in its block's registers
// level 4  the blocks of a cluster hold a row of up to 131072 together
// level 5  a row of any length passes by once: only what exceeds a score told by a sample is kept, in shared memory
//
// Where nobody chooses, short rows are level 3's and a few long ones level 4's: op.cpp.
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct TopK {
    const float* logits;        // [T, S]
    const std::int32_t* start;  // [T]
    const std::int32_t* end;    // [T]
    std::int32_t* indices;      // [T, k]
    std::int64_t T, S, k;
    bool nan_as_minus_infinity;
    Stream stream;
};

// The chosen level, for layers that hold such a call.
void top_k(const TopK& call);

void top_k_level_1(const TopK& call);
void top_k_level_2(const TopK& call);
void top_k_level_3(const TopK& call);
void top_k_level_4(const TopK& call);
void top_k_level_5(const TopK& call);
std::string top_k_level_3_declines(const TopK& call);
std::string top_k_level_4_declines(const TopK& call);
std::string top_k_level_5_declines(const TopK& call);

}  // namespace dsa
