// The chain that every level is: all layers forwards, the loss, and all layers backwards.
#include <algorithm>
#include <string>
#include <vector>

#include "optimized/cross_entropy/op.h"
#include "optimized/support/at_level.h"
#include "optimized/support/compose.h"
#include "optimized/support/stages.h"
#include "optimized/training_step/between.h"
#include "optimized/training_step/head.h"
#include "optimized/training_step/layer.h"
#include "optimized/training_step/weights.h"

namespace dsa {
namespace {

CrossEntropy loss_of(const TrainingStep& call) {
    CrossEntropy loss{};
    loss.targets = call.targets;
    loss.loss = call.language_loss;
    loss.T = call.sizes.T;
    loss.V = call.sizes.V;
    loss.stream = call.stream;
    return loss;
}

struct Scratch {
    std::int32_t *positions, *start, *end;  // [T]
    std::vector<LayerKept> kept;
    std::vector<bf16*> hidden;  // [T, D] each: what comes into layer l, and at the end what comes out
    bf16* last;                 // [T, D], normalised
    float* logits;              // [T, V]
    float* d_logits;            // [T, V]
    bf16* d_last;               // [T, D]
    bf16* d_hidden[2];          // [T, D]
    HeadScratch head;
    void* of_layers;  // workspace of one layer after the other, and of what comes after them
    std::int64_t of_layers_bytes;

    Scratch(const TrainingStep& call, int level, Arena& arena) : head(call, Parts(call, level), arena) {
        const TrainingSizes& n = call.sizes;
        for (std::int32_t** place : {&positions, &start, &end}) *place = arena.take<std::int32_t>(n.T);
        hidden.push_back(arena.take<bf16>(n.T * n.D));
        for (std::int64_t l = 0; l < n.L; ++l) {
            kept.emplace_back(call, arena);
            kept.back().hidden = hidden.back();
            hidden.push_back(arena.take<bf16>(n.T * n.D));
        }
        last = arena.take<bf16>(n.T * n.D);
        logits = arena.take<float>(n.T * n.V);
        d_logits = arena.take<float>(n.T * n.V);
        d_last = arena.take<bf16>(n.T * n.D);
        for (bf16*& place : d_hidden) place = arena.take<bf16>(n.T * n.D);
        of_layers_bytes =
            std::max({layer_forward_workspace(call, level), layer_backward_workspace(call, level),
                      cross_entropy_workspace(loss_of(call)), Parts(call, level).norm_backward_workspace(n.D)});
        of_layers = arena.take<unsigned char>(of_layers_bytes);
    }
};

std::string scope_of(std::int64_t l) { return "layer_" + std::to_string(l) + "."; }

Layer layer_of(const TrainingStep& call, const Parts& parts, const Scratch& s, std::int64_t l) {
    return {&call,
            parts,
            inputs_of_layer(call, l),
            gradients_of_layer(call, l),
            call.bias == nullptr ? nullptr : call.bias + l * call.sizes.E,
            call.kl_loss + l,
            s.positions,
            s.start,
            s.end,
            s.of_layers,
            s.of_layers_bytes};
}

// What does not learn has a gradient of exactly zero.
void clear_what_rests(const TrainingStep& call) {
    LayerGradients d = call.gradients;
    visit_weights(d, call.sizes, [&](float* first, std::int64_t count, bool is_indexer) {
        if (is_indexer ? !call.indexer_learns() : !call.main_learns())
            fill_zeros(first, call.sizes.L * count, call.stream);
    });
    if (!call.indexer_learns()) fill_zeros(call.kl_loss, call.sizes.L, call.stream);
    if (call.main_learns()) return;
    fill_zeros(call.dembedding, call.sizes.V * call.sizes.D, call.stream);
    fill_zeros(call.dfinal_norm, call.sizes.D, call.stream);
    fill_zeros(call.dhead, call.sizes.D * call.sizes.V, call.stream);
}

void measure_loss(const TrainingStep& call, const Parts& parts, const Scratch& s) {
    const TrainingSizes& n = call.sizes;
    parts.norm(s.hidden.back(), call.final_norm, s.last, n.D);
    show("final_norm", s.last, {n.T, n.D}, call.stream);
    parts.product(s.last, call.head, nullptr, s.logits, n.D, n.V);
    show("logits", s.logits, {n.T, n.V}, call.stream);
    CrossEntropy loss = loss_of(call);
    loss.logits = s.logits;
    loss.dlogits = s.d_logits;
    loss.workspace = s.of_layers;
    loss.workspace_bytes = s.of_layers_bytes;
    up_to(parts.level(), loss, cross_entropy_level_1, cross_entropy_level_2, cross_entropy_level_2_declines);
}

// -> the gradient of what came out of the last layer
void start_back(const TrainingStep& call, const Parts& parts, const Scratch& s, bf16* d_hidden) {
    const TrainingSizes& n = call.sizes;
    show("d_logits", s.d_logits, {n.T, n.V}, call.stream);
    head_backward(call, parts, s.head, s.d_logits, s.last, s.d_last);
    show("d_final_norm", s.d_last, {n.T, n.D}, call.stream);
    parts.norm_backward(s.hidden.back(), call.final_norm, s.d_last, nullptr, d_hidden, call.dfinal_norm, n.D,
                        s.of_layers, s.of_layers_bytes);
}

}  // namespace

std::int64_t training_step_chain_workspace(const TrainingStep& call, int level) {
    const AtLevel parts(level == 1 ? 1 : 0);
    Arena arena;
    const Scratch scratch(call, level, arena);
    return arena.bytes();
}

void training_step_chain(const TrainingStep& call, int level) {
    require_workspace(call.workspace, call.workspace_bytes, training_step_chain_workspace(call, level));
    const AtLevel at_level(level == 1 ? 1 : 0);
    const TrainingSizes& n = call.sizes;
    const Parts parts(call, level);
    Arena arena(call.workspace);
    const Scratch s(call, level, arena);
    clear_what_rests(call);
    causal_rows(s.positions, s.start, s.end, n.T, call.stream);
    look_up(call.embedding, call.tokens, s.hidden.front(), n, call.stream);
    show("embedding", s.hidden.front(), {n.T, n.D}, call.stream);
    for (std::int64_t l = 0; l < n.L; ++l) {
        const auto at = static_cast<std::size_t>(l);
        const StageScope scope(scope_of(l));
        layer_forward(layer_of(call, parts, s, l), s.kept[at], s.hidden[at + 1]);
    }
    measure_loss(call, parts, s);
    if (!call.main_learns()) return;
    start_back(call, parts, s, s.d_hidden[n.L % 2]);
    for (std::int64_t l = n.L - 1; l >= 0; --l) {
        const StageScope scope(scope_of(l));
        layer_backward(layer_of(call, parts, s, l), s.kept[static_cast<std::size_t>(l)], s.d_hidden[(l + 1) % 2],
                       s.d_hidden[l % 2]);
    }
    show("d_embedding", s.d_hidden[0], {n.T, n.D}, call.stream);
    look_up_backward(call.tokens, s.d_hidden[0], call.dembedding, n, call.stream);
}

}  // namespace dsa
