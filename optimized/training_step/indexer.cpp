#include "optimized/training_step/indexer.h"

#include <algorithm>
#include <cmath>

#include "optimized/attention/selectors.h"
#include "optimized/hadamard/op.h"
#include "optimized/indexer_kl_loss/op.h"
#include "optimized/indexer_project/op.h"
#include "optimized/layer_norm/op.h"
#include "optimized/layer_norm_backward/op.h"
#include "optimized/support/compose.h"
#include "optimized/support/stages.h"
#include "optimized/top_k/op.h"
#include "optimized/training_step/between.h"

namespace dsa {
namespace {

// Only numbers that a quantiser changes go through e4m3.
bool quantises(const TrainingStep& call) {
    return call.simulates_fp8 && call.conventions.quantizer != Quantizer::none;
}

float factor_of_weights(const TrainingSizes& n) {
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(n.H_I) * static_cast<double>(n.D_I)));
}

IndexerKlLoss loss_of(const TrainingStep& call) {
    const TrainingSizes& n = call.sizes;
    IndexerKlLoss loss{};
    loss.T = loss.S = loss.n = n.T;
    loss.H_I = n.H_I;
    loss.D_I = n.D_I;
    loss.coefficient = static_cast<float>(call.conventions.kl_coefficient);
    loss.mean = call.conventions.kl_mean;
    loss.stream = call.stream;
    return loss;
}

IndexerKlLoss loss_of(const IndexerStep& step, const IndexerScratch& s, const float* target) {
    IndexerKlLoss loss = loss_of(*step.call);
    loss.q = s.q;
    loss.k = s.k;
    loss.weights = s.weights;
    loss.p = target;
    loss.loss = step.kl_loss;
    loss.dq = s.dq;
    loss.dk = s.dk;
    loss.dweights = s.dweights;
    loss.workspace = s.of_parts;
    loss.workspace_bytes = s.of_parts_bytes;
    return loss;
}

LayerNormBackward norm_backward_of(const TrainingStep& call) {
    LayerNormBackward norm{};
    norm.T = call.sizes.T;
    norm.D = call.sizes.D_I;
    norm.eps = call.eps;
    norm.stream = call.stream;
    return norm;
}

// Rope, Hadamard and, where simulated, e4m3 and back. x: [T, N, D_I], each vector of a head
struct Vectors {
    const bf16* x;
    bf16* stored;
    e4m3* quantised;
    float* scale;
    float* y;
    std::int64_t N;
};
void turn_vectors(const IndexerStep& step, const Vectors& of) {
    const TrainingStep& call = *step.call;
    const std::int64_t count = call.sizes.T * of.N * call.sizes.D_I;
    IndexerVectors v{};
    v.x = of.x;
    v.positions = step.positions;
    v.T = call.sizes.T;
    v.N = of.N;
    v.D_I = static_cast<int>(call.sizes.D_I);
    v.rope = call.rope;
    v.layout = call.conventions.indexer_rope;
    v.hadamard = call.conventions.hadamard;
    v.quantizer = quantises(call) ? call.conventions.quantizer : Quantizer::none;
    v.ue8m0 = call.conventions.ue8m0;
    v.stream = call.stream;
    v.y = of.quantised;
    v.y_bf16 = quantises(call) ? nullptr : of.stored;
    v.scale = of.scale;
    up_to(step.parts.level(), v, indexer_vectors_level_1, indexer_vectors_level_2, indexer_vectors_level_2_declines);
    if (quantises(call))
        dequantise(of.quantised, of.scale, of.y, count, call.sizes.D_I, call.stream);
    else
        widen(of.stored, of.y, count, call.stream);
}

// The way back of turn_vectors; rounding to e4m3 lets the gradient straight through. dy: [T, N, D_I], as stored.
// -> where the gradient lies: `scratch`, of the same size, or dy
bf16* turn_vectors_back(const IndexerStep& step, bf16* dy, bf16* scratch, std::int64_t N) {
    const TrainingStep& call = *step.call;
    const TrainingSizes& n = call.sizes;
    bf16* dx = dy;
    if (call.conventions.hadamard) {  // its own way back
        dx = scratch;
        up_to(step.parts.level(), Hadamard{dy, dx, n.T * N, static_cast<int>(n.D_I), call.stream}, hadamard_level_1,
              hadamard_level_2, hadamard_level_2_declines);
    }
    turn_heads({.x = dx,
                .x_row = N * n.D_I,
                .x_head = n.D_I,
                .y = dx,
                .y_row = N * n.D_I,
                .y_head = n.D_I,
                .T = n.T,
                .heads = N,
                .table = call.rope,
                .layout = call.conventions.indexer_rope,
                .back = true,
                .stream = call.stream});
    return dx;
}

}  // namespace

IndexerScratch::IndexerScratch(const TrainingStep& call, int level, Arena& arena) {
    const TrainingSizes& n = call.sizes;
    const std::int64_t of_q = n.T * n.H_I * n.D_I;
    const std::int64_t of_k = n.T * n.D_I;
    q_linear = arena.take<bf16>(of_q);
    k_linear = arena.take<bf16>(of_k);
    k_normal = arena.take<bf16>(of_k);
    q_stored = arena.take<bf16>(of_q);
    k_stored = arena.take<bf16>(of_k);
    const bool through_e4m3 = quantises(call);
    q_e4m3 = through_e4m3 ? arena.take<e4m3>(of_q) : nullptr;
    k_e4m3 = through_e4m3 ? arena.take<e4m3>(of_k) : nullptr;
    q_scale = through_e4m3 ? arena.take<float>(n.T * n.H_I) : nullptr;
    k_scale = through_e4m3 ? arena.take<float>(n.T) : nullptr;
    q = arena.take<float>(of_q);
    k = arena.take<float>(of_k);
    weights = arena.take<float>(n.T * n.H_I);
    scores = arena.take<float>(n.T * n.T);
    factor = arena.take<float>(1);
    indices = call.stage == TrainingStage::sparse ? arena.take<std::int32_t>(n.T * n.topk) : nullptr;
    dq = arena.take<float>(of_q);
    dk = arena.take<float>(of_k);
    dweights = arena.take<float>(n.T * n.H_I);
    d_stored = arena.take<bf16>(of_q);
    d_normal = arena.take<bf16>(of_k);
    d_linear = arena.take<bf16>(of_k);
    const LayerNormBackward norm = norm_backward_of(call);
    of_parts_bytes = std::max(
        level == 1 ? layer_norm_backward_level_1_workspace(norm) : layer_norm_backward_level_2_workspace(norm),
        indexer_kl_parts_workspace(loss_of(call)));
    of_parts = arena.take<unsigned char>(of_parts_bytes);
}

void score_positions(const IndexerStep& step, const IndexerScratch& s, std::uint32_t* selectors) {
    const TrainingStep& call = *step.call;
    const TrainingSizes& n = call.sizes;
    const std::int64_t width = n.H_I * n.D_I;
    step.parts.product(step.c_q, step.w.W_qI, s.q_linear, n.R_q, width);
    turn_vectors(step, {s.q_linear, s.q_stored, s.q_e4m3, s.q_scale, s.q, n.H_I});
    step.parts.product(step.x, step.w.W_kI, s.k_linear, n.D, n.D_I);
    up_to(step.parts.level(),
          LayerNorm{s.k_linear, step.w.k_norm, step.w.k_bias, s.k_normal, n.T, n.D_I, call.eps, call.stream},
          layer_norm_level_1, layer_norm_level_2, layer_norm_level_2_declines);
    turn_vectors(step, {s.k_normal, s.k_stored, s.k_e4m3, s.k_scale, s.k, 1});
    if (call.simulates_fp8) {  // e4m3 times a linear scale is no bf16 number
        show("indexer_q", s.q, {n.T, width}, call.stream);
        show("indexer_k", s.k, {n.T, n.D_I}, call.stream);
    } else {
        show("indexer_q", s.q_stored, {n.T, width}, call.stream);
        show("indexer_k", s.k_stored, {n.T, n.D_I}, call.stream);
    }
    step.parts.product(step.x, call.W_w_is_float32 ? nullptr : static_cast<const bf16*>(step.w.W_w),
                       call.W_w_is_float32 ? static_cast<const float*>(step.w.W_w) : nullptr, s.weights, n.D, n.H_I);
    scale_weights(s.weights, factor_of_weights(n), call.conventions.weights_proj_bf16, n.T * n.H_I, call.stream);
    show("indexer_weights", s.weights, {n.T, n.H_I}, call.stream);
    indexer_kl_scores(loss_of(step, s, nullptr), s.scores, step.parts.level());
    show("indexer_logits", s.scores, {n.T, n.T}, call.stream);
    if (call.stage != TrainingStage::sparse) return;
    top_k({s.scores, step.start, step.end, s.indices, n.T, n.T, n.topk, call.conventions.nan_as_minus_infinity,
           call.stream});
    show("topk_indices", s.indices, {n.T, n.topk}, call.stream);
    mark_selectors(s.indices, selectors, n.T, n.topk, n.T, call.stream);
}

void learn_target(const IndexerStep& step, const IndexerScratch& s, const float* target,
                  const std::uint32_t* selectors) {
    const TrainingStep& call = *step.call;
    const TrainingSizes& n = call.sizes;
    const std::int64_t width = n.H_I * n.D_I;
    if (call.stage == TrainingStage::sparse)
        keep_selected_scores(s.scores, s.indices, selectors, n.T, n.topk, call.stream);
    const IndexerKlLoss loss = loss_of(step, s, target);
    indexer_kl_loss_of_scores(loss, s.scores, s.factor);
    indexer_kl_gradients(loss, s.scores, s.factor, step.parts.level());

    show("d_indexer_weights", s.dweights, {n.T, n.H_I}, call.stream);
    scale_weights(s.dweights, factor_of_weights(n), false, n.T * n.H_I, call.stream);
    if (call.conventions.weights_proj_bf16) {
        narrow(s.dweights, s.d_stored, n.T * n.H_I, call.stream);
        step.parts.weight_gradient(step.x, s.d_stored, step.d.W_w, n.D, n.H_I);
    } else {
        step.parts.weight_gradient(step.x, s.dweights, step.d.W_w, n.D, n.H_I);
    }

    narrow(s.dq, s.d_stored, n.T * width, call.stream);
    if (call.simulates_fp8)
        show("d_indexer_q", s.dq, {n.T, width}, call.stream);
    else
        show("d_indexer_q", s.d_stored, {n.T, width}, call.stream);
    step.parts.weight_gradient(step.c_q, turn_vectors_back(step, s.d_stored, s.q_stored, n.H_I), step.d.W_qI, n.R_q,
                               width);

    narrow(s.dk, s.d_normal, n.T * n.D_I, call.stream);
    if (call.simulates_fp8)
        show("d_indexer_k", s.dk, {n.T, n.D_I}, call.stream);
    else
        show("d_indexer_k", s.d_normal, {n.T, n.D_I}, call.stream);
    LayerNormBackward norm = norm_backward_of(call);
    norm.x = s.k_linear;
    norm.weight = step.w.k_norm;
    norm.dy = turn_vectors_back(step, s.d_normal, s.k_stored, 1);
    norm.dx = s.d_linear;
    norm.dweight = step.d.k_norm;
    norm.dbias = step.d.k_bias;
    norm.workspace = s.of_parts;
    norm.workspace_bytes = s.of_parts_bytes;
    step.parts.level() == 1 ? layer_norm_backward_level_1(norm) : layer_norm_backward_level_2(norm);
    step.parts.weight_gradient(step.x, s.d_linear, step.d.W_kI, n.D, n.D_I);
}

}  // namespace dsa
