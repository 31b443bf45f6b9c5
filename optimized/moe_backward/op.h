// The gradients of a mixture of experts: of its input, of every expert's matrices, of the shared expert's and of the
// gate's. The choice has none, and so neither has the bias that joins it. spec section 6; docs/14-gradients.md.
//
// level 1  grouped products of plain tiles
// level 2  the same on the tensor cores, the gate's D split over blocks
// level 3  the products of rows warp-specialised, over a table of tiles
#pragma once

#include "optimized/moe_gate/op.h"

namespace dsa {

// A feed-forward net of one matrix each, or of one an expert, and where its gradients go.
struct ExpertMatrices {
    const bf16* gate;  // [heads, D, F]
    const bf16* up;    // [heads, D, F]
    const bf16* down;  // [heads, F, D]
    float* d_gate;     // [heads, D, F]
    float* d_up;       // [heads, D, F]
    float* d_down;     // [heads, F, D]
    std::int64_t heads, F;
};

struct MoeBackward {
    const bf16* x;   // [T, D]
    MoeGate gate;    // all but its outputs and workspace
    const bf16* dy;  // [T, D]
    ExpertMatrices routed, shared;
    bf16* dx;     // [T, D]
    float* dW_g;  // [D, E]
    std::int64_t T, D;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

// All stages, each at `level` or, where it does not take the call, below.
void moe_backward_chain(const MoeBackward& call, int level);
std::int64_t moe_backward_chain_workspace(const MoeBackward& call, int level);

void moe_backward_level_1(const MoeBackward& call);
std::int64_t moe_backward_level_1_workspace(const MoeBackward& call);
void moe_backward_level_2(const MoeBackward& call);
std::int64_t moe_backward_level_2_workspace(const MoeBackward& call);
void moe_backward_level_3(const MoeBackward& call);
std::int64_t moe_backward_level_3_workspace(const MoeBackward& call);

}  // namespace dsa
