#include <algorithm>

#include "optimized/dense_mha_backward/op.h"
#include "optimized/moe_backward/op.h"
#include "optimized/support/ladder.h"
#include "optimized/support/stages.h"
#include "optimized/training_step/between.h"
#include "optimized/training_step/layer.h"

namespace dsa {
namespace {

DenseMhaBackward attention_of(const TrainingStep& call) {
    const TrainingSizes& n = call.sizes;
    DenseMhaBackward attention{};
    attention.T = attention.S = n.T;
    attention.H = n.H;
    attention.d = n.d_q();
    attention.d_v = n.d_v;
    attention.causal = true;
    attention.scale = call.softmax_scale;
    attention.stream = call.stream;
    attention.most_bytes = call.most_bytes;
    return attention;
}

MoeBackward mixture_of(const TrainingStep& call) {
    const TrainingSizes& n = call.sizes;
    MoeBackward moe{};
    moe.gate = gate_of(call);
    moe.T = n.T;
    moe.D = n.D;
    moe.routed.heads = n.E;
    moe.routed.F = n.F;
    moe.shared.heads = 1;
    moe.shared.F = n.F_s;
    moe.stream = call.stream;
    return moe;
}

struct Scratch {
    bf16* d_z;           // [T, D]
    bf16* d_middle;      // [T, D]
    bf16* d_out;         // [T, H, d_v]
    bf16* d_q;           // [T, H, d_q]
    float* d_k;          // [T, H, d_q]
    bf16* d_v;           // [T, H, d_v]
    bf16* d_c_q;         // [T, R_q]
    bf16* d_q_latent;    // [T, R_q]
    bf16* W_ukv;         // [R_kv, H, d_nope + d_v]
    float* dW_ukv;       // [R_kv, H, d_nope + d_v]
    bf16* d_kv_heads;    // [T, H, d_nope + d_v]
    bf16* d_k_rope;      // [T, d_rope]
    bf16* d_c_kv;        // [T, R_kv]
    bf16* d_c_kv_input;  // [T, R_kv]
    bf16* d_kv_latent;   // [T, d]
    float* from_q;       // [T, D]
    float* from_kv;      // [T, D]
    bf16* d_x;           // [T, D]
    void* of_parts;      // workspace of one part after the other
    std::int64_t of_parts_bytes;

    Scratch(const TrainingStep& call, const Parts& parts, Arena& arena) {
        const TrainingSizes& n = call.sizes;
        const std::int64_t up = n.H * (n.d_nope + n.d_v);
        d_z = arena.take<bf16>(n.T * n.D);
        d_middle = arena.take<bf16>(n.T * n.D);
        d_out = arena.take<bf16>(n.T * n.H * n.d_v);
        d_q = arena.take<bf16>(n.T * n.H * n.d_q());
        d_k = arena.take<float>(n.T * n.H * n.d_q());
        d_v = arena.take<bf16>(n.T * n.H * n.d_v);
        d_c_q = arena.take<bf16>(n.T * n.R_q);
        d_q_latent = arena.take<bf16>(n.T * n.R_q);
        W_ukv = arena.take<bf16>(n.R_kv * up);
        dW_ukv = arena.take<float>(n.R_kv * up);
        d_kv_heads = arena.take<bf16>(n.T * up);
        d_k_rope = arena.take<bf16>(n.T * n.d_rope);
        d_c_kv = arena.take<bf16>(n.T * n.R_kv);
        d_c_kv_input = arena.take<bf16>(n.T * n.R_kv);
        d_kv_latent = arena.take<bf16>(n.T * n.d());
        from_q = arena.take<float>(n.T * n.D);
        from_kv = arena.take<float>(n.T * n.D);
        d_x = arena.take<bf16>(n.T * n.D);
        of_parts_bytes =
            std::max({moe_backward_chain_workspace(mixture_of(call), parts.products_level()),
                      dense_mha_backward_workspace(attention_of(call)), parts.norm_backward_workspace(n.D),
                      parts.norm_backward_workspace(n.R_q), parts.norm_backward_workspace(n.R_kv)});
        of_parts = arena.take<unsigned char>(of_parts_bytes);
    }
};

class Backward {
   public:
    Backward(const Layer& layer, const LayerKept& kept, const Scratch& scratch)
        : layer_(layer), call_(*layer.call), n_(layer.call->sizes), kept_(kept), s_(scratch) {}

    // From the layer's output to the stream after attention: the residual's way and the experts' way add up.
    void mixture_and_norm(const bf16* dy) const {
        show("d_ffn_y", dy, {n_.T, n_.D}, call_.stream);
        MoeBackward moe = mixture_of(call_);
        moe.x = moe.gate.x = kept_.z;
        moe.gate.W_g = layer_.w.W_g;
        moe.gate.bias = layer_.bias;
        moe.dy = dy;
        moe.routed.gate = layer_.w.W_gate;
        moe.routed.up = layer_.w.W_up;
        moe.routed.down = layer_.w.W_down;
        moe.routed.d_gate = layer_.d.W_gate;
        moe.routed.d_up = layer_.d.W_up;
        moe.routed.d_down = layer_.d.W_down;
        moe.shared.gate = layer_.w.shared_W_gate;
        moe.shared.up = layer_.w.shared_W_up;
        moe.shared.down = layer_.w.shared_W_down;
        moe.shared.d_gate = layer_.d.shared_W_gate;
        moe.shared.d_up = layer_.d.shared_W_up;
        moe.shared.d_down = layer_.d.shared_W_down;
        moe.dW_g = layer_.d.W_g;
        moe.dx = s_.d_z;
        moe.workspace = s_.of_parts;
        moe.workspace_bytes = s_.of_parts_bytes;
        moe_backward_chain(moe, layer_.parts.products_level());
        show("d_ffn_input", s_.d_z, {n_.T, n_.D}, call_.stream);
        norm(kept_.middle, layer_.w.ffn_norm, s_.d_z, dy, s_.d_middle, layer_.d.ffn_norm, n_.D);
        show("d_after_attention", s_.d_middle, {n_.T, n_.D}, call_.stream);
    }

    // To the heads' queries, keys and values.
    void attention() const {
        show("d_attention_y", s_.d_middle, {n_.T, n_.D}, call_.stream);
        linear(kept_.out, layer_.w.W_o, s_.d_middle, s_.d_out, layer_.d.W_o, n_.H * n_.d_v, n_.D);
        show("d_attention_out", s_.d_out, {n_.T, n_.H * n_.d_v}, call_.stream);
        DenseMhaBackward attention = attention_of(call_);
        attention.q = kept_.q;
        attention.k = kept_.k;
        attention.v = kept_.v;
        attention.out = kept_.out;
        attention.lse = kept_.lse;
        attention.dout = s_.d_out;
        attention.dq = s_.d_q;
        attention.dk_float32 = s_.d_k;
        attention.dv = s_.d_v;
        attention.selectors = kept_.selectors;
        attention.workspace = s_.of_parts;
        attention.workspace_bytes = s_.of_parts_bytes;
        dense_mha_backward_chain(attention, layer_.parts.products_level());
        show("d_q_heads", s_.d_q, {n_.T, n_.H * n_.d_q()}, call_.stream);
    }

    void queries() const {
        turn_back(s_.d_q + n_.d_nope, n_.H * n_.d_q(), n_.d_q(), s_.d_q + n_.d_nope, n_.H * n_.d_q(), n_.H);
        linear(kept_.c_q, layer_.w.W_uq, s_.d_q, s_.d_c_q, layer_.d.W_uq, n_.R_q, n_.H * n_.d_q());
        show("d_c_q", s_.d_c_q, {n_.T, n_.R_q}, call_.stream);
        norm(kept_.q_latent, layer_.w.q_norm, s_.d_c_q, nullptr, s_.d_q_latent, layer_.d.q_norm, n_.R_q);
        show("d_q_latent", s_.d_q_latent, {n_.T, n_.R_q}, call_.stream);
    }

    void keys() const {
        const std::int64_t width = n_.d_nope + n_.d_v;  // of a head
        own_keys_backward(s_.d_k, s_.d_v, s_.d_kv_heads, s_.d_k_rope, n_, call_.stream);
        show("d_kv_heads", s_.d_kv_heads, {n_.T, n_.H * width}, call_.stream);
        show("d_k_rope", s_.d_k_rope, {n_.T, n_.d_rope}, call_.stream);
        join_up_projections(layer_, s_.W_ukv);
        linear(kept_.c_kv, s_.W_ukv, s_.d_kv_heads, s_.d_c_kv, s_.dW_ukv, n_.R_kv, n_.H * width);
        copy_columns(s_.dW_ukv, width, layer_.d.W_uk, n_.d_nope, n_.R_kv * n_.H, n_.d_nope, call_.stream);
        copy_columns(s_.dW_ukv + n_.d_nope, width, layer_.d.W_uv, n_.d_v, n_.R_kv * n_.H, n_.d_v, call_.stream);
        show("d_c_kv", s_.d_c_kv, {n_.T, n_.R_kv}, call_.stream);
        norm(kept_.kv_latent, layer_.w.kv_norm, s_.d_c_kv, nullptr, s_.d_c_kv_input, layer_.d.kv_norm, n_.R_kv);
        copy_columns(s_.d_c_kv_input, n_.R_kv, s_.d_kv_latent, n_.d(), n_.T, n_.R_kv, call_.stream);
        turn_back(s_.d_k_rope, n_.d_rope, 0, s_.d_kv_latent + n_.R_kv, n_.d(), 1);
        show("d_kv_latent", s_.d_kv_latent, {n_.T, n_.d()}, call_.stream);
    }

    // Both latents' parts are added in float32 and stored once.
    void input(bf16* dx) const {
        layer_.parts.input_gradient(s_.d_q_latent, layer_.w.W_dq, s_.from_q, n_.D, n_.R_q);
        layer_.parts.weight_gradient(kept_.x, s_.d_q_latent, layer_.d.W_dq, n_.D, n_.R_q);
        layer_.parts.input_gradient(s_.d_kv_latent, layer_.w.W_dkv, s_.from_kv, n_.D, n_.d());
        layer_.parts.weight_gradient(kept_.x, s_.d_kv_latent, layer_.d.W_dkv, n_.D, n_.d());
        add_parts(s_.from_q, s_.from_kv, s_.d_x, n_.T * n_.D, call_.stream);
        show("d_attention_input", s_.d_x, {n_.T, n_.D}, call_.stream);
        norm(kept_.hidden, layer_.w.attention_norm, s_.d_x, s_.d_middle, dx, layer_.d.attention_norm, n_.D);
    }

   private:
    // Both gradients of y = x w.
    void linear(const bf16* x, const bf16* w, const bf16* dy, bf16* dx, float* dw, std::int64_t K,
                std::int64_t N) const {
        layer_.parts.input_gradient(dy, w, dx, K, N);
        layer_.parts.weight_gradient(x, dy, dw, K, N);
    }
    void norm(const bf16* x, const float* weight, const bf16* dy, const bf16* residual, bf16* dx, float* dweight,
              std::int64_t D) const {
        layer_.parts.norm_backward(x, weight, dy, residual, dx, dweight, D, s_.of_parts, s_.of_parts_bytes);
    }
    void turn_back(const bf16* x, std::int64_t x_row, std::int64_t head, bf16* y, std::int64_t y_row,
                   std::int64_t heads) const {
        turn_heads({.x = x,
                    .x_row = x_row,
                    .x_head = head,
                    .y = y,
                    .y_row = y_row,
                    .y_head = head,
                    .T = n_.T,
                    .heads = heads,
                    .table = call_.rope,
                    .layout = RopeLayout::interleaved,
                    .back = true,
                    .stream = call_.stream});
    }

    const Layer& layer_;
    const TrainingStep& call_;
    const TrainingSizes& n_;
    const LayerKept& kept_;
    const Scratch& s_;
};

}  // namespace

std::int64_t layer_backward_workspace(const TrainingStep& call, int level) {
    Arena arena;
    const Scratch scratch(call, Parts(call, level), arena);
    return arena.bytes();
}

void layer_backward(const Layer& layer, const LayerKept& kept, const bf16* dy, bf16* dx) {
    const TrainingStep& call = *layer.call;
    require_workspace(layer.workspace, layer.workspace_bytes, layer_backward_workspace(call, layer.parts.level()));
    Arena arena(layer.workspace);
    const Scratch s(call, layer.parts, arena);
    const Backward backward(layer, kept, s);
    show("d_after_ffn", dy, {call.sizes.T, call.sizes.D}, call.stream);
    backward.mixture_and_norm(dy);
    backward.attention();
    backward.queries();
    backward.keys();
    backward.input(dx);
}

}  // namespace dsa
