// One step of training: a small model forwards, the language loss and the indexer's KL, and the gradient of every
// weight. MLA in MHA mode, the indexer on detached inputs, a mixture of experts; weights lie stacked, one for each of
// L layers. spec section 7; docs/13-teaching-the-indexer.md, docs/14-gradients.md.
//
// level 1  every part at its level 1
// level 2  every part at its highest; float32 gradients of logits as three bf16 numbers
#pragma once

#include "optimized/support/call.h"
#include "optimized/support/case.h"
#include "optimized/support/rotary.h"

namespace dsa {

enum class TrainingStage {
    dense,   // attention to all, the main model learns from the next token
    warmup,  // attention to all, the indexer learns from attention, the main model rests
    sparse,  // attention to what the indexer chooses; each learns from its own loss
};

// Sizes of every layer, by the glossary's letters.
struct TrainingSizes {
    std::int64_t T, L, V, D, R_q, H, R_kv, d_nope, d_rope, d_v, H_I, D_I, E, F, F_s, topk;
    std::int64_t d_q() const { return d_nope + d_rope; }
    std::int64_t d() const { return R_kv + d_rope; }
};

// One layer's weights: as they come in (bf16 matrices), or as their gradients go out (float32). Of a dtype that the
// call chooses are W_w and W_g.
template <class Matrices, class Norms, class Either>
struct LayerWeights {
    Norms* attention_norm;    // [D]
    Matrices* W_dq;           // [D, R_q]
    Norms* q_norm;            // [R_q]
    Matrices* W_uq;           // [R_q, H, d_q]
    Matrices* W_dkv;          // [D, d]
    Norms* kv_norm;           // [R_kv]
    Matrices* W_uk;           // [R_kv, H, d_nope]
    Matrices* W_uv;           // [R_kv, H, d_v]
    Matrices* W_o;            // [H, d_v, D]
    Matrices* W_qI;           // [R_q, H_I, D_I]
    Matrices* W_kI;           // [D, D_I]
    Norms* k_norm;            // [D_I]
    Norms* k_bias;            // [D_I]
    Either* W_w;              // [D, H_I]
    Norms* ffn_norm;          // [D]
    Either* W_g;              // [D, E]
    Matrices* W_gate;         // [E, D, F]
    Matrices* W_up;           // [E, D, F]
    Matrices* W_down;         // [E, F, D]
    Matrices* shared_W_gate;  // [D, F_s]
    Matrices* shared_W_up;    // [D, F_s]
    Matrices* shared_W_down;  // [F_s, D]
};
using LayerInputs = LayerWeights<const bf16, const float, const void>;
using LayerGradients = LayerWeights<float, float, float>;

struct TrainingStep {
    const std::int32_t* tokens;   // [T]
    const std::int32_t* targets;  // [T], what comes next; negative where it does not count
    const bf16* embedding;        // [V, D]
    const float* final_norm;      // [D]
    const bf16* head;             // [D, V]
    const float* bias;            // [L, E], or null
    LayerInputs layers;           // of all layers: [L, ...] each
    bool W_w_is_float32, W_g_is_bf16;
    float* language_loss;      // [1]
    float* kl_loss;            // [L]
    float* dembedding;         // [V, D]
    float* dfinal_norm;        // [D]
    float* dhead;              // [D, V]
    LayerGradients gradients;  // of all layers

    TrainingSizes sizes;
    TrainingStage stage;
    bool simulates_fp8;  // the indexer's queries and keys through e4m3 on the way forward
    Conventions conventions;
    RopeTable rope;
    float eps, softmax_scale, route_scale;
    int groups, kept_groups, active;
    bool normalise;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
    // Of score matrices at once: so many heads at a time, but at least one.
    std::int64_t most_bytes = std::int64_t{1} << 30;

    bool main_learns() const { return stage != TrainingStage::warmup; }
    bool indexer_learns() const { return stage != TrainingStage::dense; }
};

// All parts, each at `level` or, where it does not take the call, below.
void training_step_chain(const TrainingStep& call, int level);
std::int64_t training_step_chain_workspace(const TrainingStep& call, int level);

void training_step_level_1(const TrainingStep& call);
std::int64_t training_step_level_1_workspace(const TrainingStep& call);
void training_step_level_2(const TrainingStep& call);
std::int64_t training_step_level_2_workspace(const TrainingStep& call);

}  // namespace dsa
