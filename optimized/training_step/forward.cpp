#include <algorithm>

#include "optimized/attention/selectors.h"
#include "optimized/moe/op.h"
#include "optimized/support/ladder.h"
#include "optimized/support/stages.h"
#include "optimized/training_step/between.h"
#include "optimized/training_step/indexer.h"
#include "optimized/training_step/layer.h"
#include "optimized/training_step/masked_attention.h"
#include "optimized/transformer_block/op.h"

namespace dsa {
namespace {

MaskedAttention masked_of(const TrainingStep& call) {
    const TrainingSizes& n = call.sizes;
    MaskedAttention attention{};
    attention.T = n.T;
    attention.H = n.H;
    attention.d = n.d_q();
    attention.d_v = n.d_v;
    attention.scale = call.softmax_scale;
    attention.renormalised = call.stage == TrainingStage::sparse && call.conventions.target_renormalised;
    attention.most_bytes = call.most_bytes;
    attention.stream = call.stream;
    return attention;
}

Moe mixture_of(const TrainingStep& call) {
    const TrainingSizes& n = call.sizes;
    Moe moe{};
    moe.gate = gate_of(call);
    moe.T = n.T;
    moe.D = n.D;
    moe.F = n.F;
    moe.F_shared = n.F_s;
    moe.stream = call.stream;
    static constexpr unsigned char somewhere[1] = {};  // a shared expert is there: its weights come with the layer
    moe.shared_W_gate.data = somewhere;
    return moe;
}

struct Scratch {
    bf16* W_ukv;      // [R_kv, H, d_nope + d_v]
    bf16* kv_latent;  // [T, d]
    bf16* k_rope;     // [T, d_rope]
    bf16* kv_heads;   // [T, H, d_nope + d_v]
    float* target;    // [T, T], where the indexer learns
    bf16* y;          // [T, D], of attention and then of the mixture
    void* of_parts;   // workspace of attention, then of the mixture
    std::int64_t of_parts_bytes;

    Scratch(const TrainingStep& call, const Parts& parts, Arena& arena) {
        const TrainingSizes& n = call.sizes;
        W_ukv = arena.take<bf16>(n.R_kv * n.H * (n.d_nope + n.d_v));
        kv_latent = arena.take<bf16>(n.T * n.d());
        k_rope = arena.take<bf16>(n.T * n.d_rope);
        kv_heads = arena.take<bf16>(n.T * n.H * (n.d_nope + n.d_v));
        target = call.indexer_learns() ? arena.take<float>(n.T * n.T) : nullptr;
        y = arena.take<bf16>(n.T * n.D);
        of_parts_bytes = std::max(moe_chain_workspace(mixture_of(call), parts.products_level()),
                                  masked_attention_workspace(masked_of(call)));
        of_parts = arena.take<unsigned char>(of_parts_bytes);
    }
};

void project_queries(const Layer& layer, const LayerKept& kept) {
    const TrainingSizes& n = layer.call->sizes;
    const Stream stream = layer.call->stream;
    layer.parts.product(kept.x, layer.w.W_dq, kept.q_latent, n.D, n.R_q);
    show("q_latent", kept.q_latent, {n.T, n.R_q}, stream);
    layer.parts.norm(kept.q_latent, layer.w.q_norm, kept.c_q, n.R_q);
    show("c_q", kept.c_q, {n.T, n.R_q}, stream);
    layer.parts.product(kept.c_q, layer.w.W_uq, kept.q, n.R_q, n.H * n.d_q());
    turn_heads({.x = kept.q + n.d_nope,
                .x_row = n.H * n.d_q(),
                .x_head = n.d_q(),
                .y = kept.q + n.d_nope,
                .y_row = n.H * n.d_q(),
                .y_head = n.d_q(),
                .T = n.T,
                .heads = n.H,
                .table = layer.call->rope,
                .layout = RopeLayout::interleaved,
                .back = false,
                .stream = stream});
    show("q_heads", kept.q, {n.T, n.H * n.d_q()}, stream);
}

void project_keys(const Layer& layer, const LayerKept& kept, const Scratch& s) {
    const TrainingSizes& n = layer.call->sizes;
    const Stream stream = layer.call->stream;
    layer.parts.product(kept.x, layer.w.W_dkv, s.kv_latent, n.D, n.d());
    show("kv_latent", s.kv_latent, {n.T, n.d()}, stream);
    copy_columns(s.kv_latent, n.d(), kept.kv_latent, n.R_kv, n.T, n.R_kv, stream);
    layer.parts.norm(kept.kv_latent, layer.w.kv_norm, kept.c_kv, n.R_kv);
    show("c_kv", kept.c_kv, {n.T, n.R_kv}, stream);
    turn_heads({.x = s.kv_latent + n.R_kv,
                .x_row = n.d(),
                .x_head = 0,
                .y = s.k_rope,
                .y_row = n.d_rope,
                .y_head = 0,
                .T = n.T,
                .heads = 1,
                .table = layer.call->rope,
                .layout = RopeLayout::interleaved,
                .back = false,
                .stream = stream});
    show("k_rope", s.k_rope, {n.T, n.d_rope}, stream);
    const std::int64_t width = n.H * (n.d_nope + n.d_v);
    join_up_projections(layer, s.W_ukv);
    layer.parts.product(kept.c_kv, s.W_ukv, s.kv_heads, n.R_kv, width);
    show("kv_heads", s.kv_heads, {n.T, width}, stream);
    own_keys(s.kv_heads, s.k_rope, kept.k, kept.v, n, stream);
}

void attend(const Layer& layer, const LayerKept& kept, const Scratch& s) {
    MaskedAttention attention = masked_of(*layer.call);
    attention.q = kept.q;
    attention.k = kept.k;
    attention.v = kept.v;
    attention.selectors = kept.selectors;
    attention.out = kept.out;
    attention.lse = kept.lse;
    attention.target = s.target;
    attention.workspace = s.of_parts;
    attention.workspace_bytes = s.of_parts_bytes;
    masked_attention(attention, layer.parts.products_level());
    show("attention_out", kept.out, {attention.T, attention.H * attention.d_v}, attention.stream);
    if (s.target != nullptr) show("attention_target", s.target, {attention.T, attention.T}, attention.stream);
}

void run_mixture(const Layer& layer, const LayerKept& kept, const Scratch& s) {
    Moe moe = mixture_of(*layer.call);
    moe.x = moe.gate.x = kept.z;
    moe.gate.W_g = layer.w.W_g;
    moe.gate.bias = layer.bias;
    moe.W_gate.data = layer.w.W_gate;
    moe.W_up.data = layer.w.W_up;
    moe.W_down.data = layer.w.W_down;
    moe.shared_W_gate.data = layer.w.shared_W_gate;
    moe.shared_W_up.data = layer.w.shared_W_up;
    moe.shared_W_down.data = layer.w.shared_W_down;
    moe.y = s.y;
    moe.workspace = s.of_parts;
    moe.workspace_bytes = s.of_parts_bytes;
    moe_chain(moe, layer.parts.products_level());
}

}  // namespace

LayerKept::LayerKept(const TrainingStep& call, Arena& arena) : hidden(nullptr) {
    const TrainingSizes& n = call.sizes;
    x = arena.take<bf16>(n.T * n.D);
    q_latent = arena.take<bf16>(n.T * n.R_q);
    c_q = arena.take<bf16>(n.T * n.R_q);
    kv_latent = arena.take<bf16>(n.T * n.R_kv);
    c_kv = arena.take<bf16>(n.T * n.R_kv);
    q = arena.take<bf16>(n.T * n.H * n.d_q());
    k = arena.take<bf16>(n.T * n.H * n.d_q());
    v = arena.take<bf16>(n.T * n.H * n.d_v);
    selectors = call.stage == TrainingStage::sparse ? arena.take<std::uint32_t>(n.T * selector_words(n.T)) : nullptr;
    out = arena.take<bf16>(n.T * n.H * n.d_v);
    lse = arena.take<float>(n.T * n.H);
    middle = arena.take<bf16>(n.T * n.D);
    z = arena.take<bf16>(n.T * n.D);
}

void join_up_projections(const Layer& layer, bf16* joined) {
    const TrainingSizes& n = layer.call->sizes;
    const std::int64_t width = n.d_nope + n.d_v;
    copy_columns(layer.w.W_uk, n.d_nope, joined, width, n.R_kv * n.H, n.d_nope, layer.call->stream);
    copy_columns(layer.w.W_uv, n.d_v, joined + n.d_nope, width, n.R_kv * n.H, n.d_v, layer.call->stream);
}

MoeGate gate_of(const TrainingStep& call) {
    MoeGate gate{};
    gate.W_g_is_bf16 = call.W_g_is_bf16;
    gate.T = call.sizes.T;
    gate.D = call.sizes.D;
    gate.E = call.sizes.E;
    gate.groups = call.groups;
    gate.kept_groups = call.kept_groups;
    gate.active = call.active;
    gate.normalise = call.normalise;
    gate.route_scale = call.route_scale;
    gate.router_eps = static_cast<float>(call.conventions.router_eps);
    gate.stream = call.stream;
    return gate;
}

std::int64_t layer_forward_workspace(const TrainingStep& call, int level) {
    Arena arena;
    const Scratch scratch(call, Parts(call, level), arena);
    if (call.indexer_learns()) {
        const IndexerScratch indexer(call, level, arena);
    }
    return arena.bytes();
}

void layer_forward(const Layer& layer, const LayerKept& kept, bf16* y) {
    const TrainingStep& call = *layer.call;
    const TrainingSizes& n = call.sizes;
    require_workspace(layer.workspace, layer.workspace_bytes, layer_forward_workspace(call, layer.parts.level()));
    Arena arena(layer.workspace);
    const Scratch s(call, layer.parts, arena);
    layer.parts.norm(kept.hidden, layer.w.attention_norm, kept.x, n.D);
    show("attention_input", kept.x, {n.T, n.D}, call.stream);
    project_queries(layer, kept);
    project_keys(layer, kept, s);
    if (call.indexer_learns()) {
        const IndexerScratch indexer(call, layer.parts.level(), arena);
        const IndexerStep step{&call,    layer.parts,     layer.w,     layer.d,   kept.x,
                               kept.c_q, layer.positions, layer.start, layer.end, layer.kl_loss};
        score_positions(step, indexer, kept.selectors);
        attend(layer, kept, s);
        learn_target(step, indexer, s.target, kept.selectors);
    } else {
        attend(layer, kept, s);
    }
    layer.parts.product(kept.out, layer.w.W_o, s.y, n.H * n.d_v, n.D);
    show("attention_y", s.y, {n.T, n.D}, call.stream);
    add(kept.hidden, s.y, kept.middle, n.T * n.D, call.stream);
    show("after_attention", kept.middle, {n.T, n.D}, call.stream);
    layer.parts.norm(kept.middle, layer.w.ffn_norm, kept.z, n.D);
    show("ffn_input", kept.z, {n.T, n.D}, call.stream);
    run_mixture(layer, kept, s);
    show("ffn_y", s.y, {n.T, n.D}, call.stream);
    add(kept.middle, s.y, y, n.T * n.D, call.stream);
    show("after_ffn", y, {n.T, n.D}, call.stream);
}

}  // namespace dsa
