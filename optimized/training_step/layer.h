// One layer forwards and backwards.
#pragma once

#include "optimized/moe_gate/op.h"
#include "optimized/support/arena.h"
#include "optimized/training_step/parts.h"

namespace dsa {

// What the way back needs of the way out.
struct LayerKept {
    const bf16* hidden;        // [T, D], what came in
    bf16* x;                   // [T, D], normalised
    bf16* q_latent;            // [T, R_q]
    bf16* c_q;                 // [T, R_q]
    bf16* kv_latent;           // [T, R_kv], without its part that is turned
    bf16* c_kv;                // [T, R_kv]
    bf16* q;                   // [T, H, d_q]
    bf16* k;                   // [T, H, d_q]
    bf16* v;                   // [T, H, d_v]
    std::uint32_t* selectors;  // [T, selector_words(T)], in the sparse stage, else null
    bf16* out;                 // [T, H, d_v]
    float* lse;                // [T, H]
    bf16* middle;              // [T, D], the residual stream between the two halves
    bf16* z;                   // [T, D], the normalised middle

    LayerKept(const TrainingStep& call, Arena& arena);
};

struct Layer {
    const TrainingStep* call;
    Parts parts;
    LayerInputs w;
    LayerGradients d;
    const float* bias;                            // [E], or null
    float* kl_loss;                               // [1]
    const std::int32_t *positions, *start, *end;  // [T]
    void* workspace;                              // of the way that is gone
    std::int64_t workspace_bytes;
};

// kept.hidden -> y [T, D]; the indexer's part of the gradients is done here.
void layer_forward(const Layer& layer, const LayerKept& kept, bf16* y);
std::int64_t layer_forward_workspace(const TrainingStep& call, int level);
// dy [T, D], of what came out -> dx [T, D], of what came in
void layer_backward(const Layer& layer, const LayerKept& kept, const bf16* dy, bf16* dx);
std::int64_t layer_backward_workspace(const TrainingStep& call, int level);

// W_uk and W_uv side by side for each head, as one matrix. -> [R_kv, H, d_nope + d_v]
void join_up_projections(const Layer& layer, bf16* joined);

// The gate of a layer's mixture: all but x, weights, its outputs and workspace.
MoeGate gate_of(const TrainingStep& call);

}  // namespace dsa
