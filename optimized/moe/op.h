// A mixture of experts: y = sum over a token's chosen experts of weight FFN(x), and of one that all tokens share.
// spec section 6. A visit is a token with one of its experts; visits are sorted by expert, so that an expert's
// matrices meet all their tokens at once.
//
// level 1  grouped products of plain tiles
// level 2  the same on the tensor cores, the gate's D split over blocks
// level 3  products warp-specialised, by wgmma, over a table of tiles instead of the worst case's grid
#pragma once

#include "optimized/moe/feed_forward.h"
#include "optimized/moe_gate/op.h"

namespace dsa {

struct Moe {
    const bf16* x;                      // [T, D]
    MoeGate gate;                       // all but its outputs and workspace
    Matrix W_gate, W_up;                // [E, D, F]
    Matrix W_down;                      // [E, F, D]
    Matrix shared_W_gate, shared_W_up;  // [D, F_shared], or nothing
    Matrix shared_W_down;               // [F_shared, D]
    bf16* y;                            // [T, D]
    std::int64_t T, D, F, F_shared;
    bool ue8m0;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

// The chosen level, for layers that hold such a call.
void moe(const Moe& call);
std::int64_t moe_workspace(const Moe& call);

void moe_level_1(const Moe& call);
std::int64_t moe_level_1_workspace(const Moe& call);
void moe_level_2(const Moe& call);
std::int64_t moe_level_2_workspace(const Moe& call);
void moe_level_3(const Moe& call);
std::int64_t moe_level_3_workspace(const Moe& call);

// All stages, each at `level` or, where it does not take the call, below.
void moe_chain(const Moe& call, int level);
std::int64_t moe_chain_workspace(const Moe& call, int level);

// Visits by expert, each expert's in the order of the tokens. experts: [T, active]  ->  first_row [E + 1], each
// expert's first visit; token_of [T active], the token of a visit; visit_of [T, active], the visit of a choice.
void sort_visits(const std::int32_t* experts, std::int64_t T, int active, std::int64_t E, std::int32_t* first_row,
                 std::int32_t* token_of, std::int32_t* visit_of, Stream stream);

// y[t] = sum_i weights[t, i] out[visit_of[t, i]] + shared[t], added in this order in float32. shared may be null.
void combine_visits(const bf16* out, const std::int32_t* visit_of, const float* weights, const bf16* shared, bf16* y,
                    std::int64_t T, std::int64_t D, int active, Stream stream);

}  // namespace dsa
