// act_quant: e4m3 and one scale a block of numbers. spec sections 3 and 9; the bytes have one right answer.
//
// level 1  one block of threads a block of numbers
// level 2  one warp a block of numbers: 16 bytes a lane, no barrier
#pragma once

#include "optimized/support/call.h"
#include "optimized/support/case.h"

namespace dsa {

struct ActQuant {
    const bf16* x;         // [blocks, block]; null where x_float is given
    const float* x_float;  // [blocks, block]
    e4m3* q;               // [blocks, block]; null where nothing is quantised
    bf16* q_bf16;          // [blocks, block], for Quantizer::none
    float* scale;          // [blocks]
    std::int64_t blocks;
    int block;
    Quantizer quantizer;
    bool ue8m0;
    Stream stream;
};

void act_quant_level_1(const ActQuant& call);
void act_quant_level_2(const ActQuant& call);
std::string act_quant_level_2_declines(const ActQuant& call);

}  // namespace dsa
