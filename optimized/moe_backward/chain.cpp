// The chain that every level is: forwards as far as the experts' results, then back.
#include "optimized/linear/linear.h"
#include "optimized/moe/feed_forward.h"
#include "optimized/moe/op.h"
#include "optimized/moe_backward/between.h"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"
#include "optimized/weight_gradient/weight_gradient.h"

namespace dsa {
namespace {

// A feed-forward net's rows: those of visits, in groups of an expert's, or those of all tokens.
struct Net {
    const ExpertMatrices* w;
    std::int64_t rows;
    const std::int32_t* first_row;  // [E + 1], or null
    const std::int32_t* token_of;   // [rows], or null
    bf16* gate;                     // [rows, F]
    bf16* up;                       // [rows, F]
    bf16* hidden;                   // [rows, F], then its gradient, then gate's
    bf16* d_up;                     // [rows, F]
    float* dx_gate;                 // [rows, D]
    float* dx_up;                   // [rows, D]
};

Net lay_out_net(Arena& arena, const ExpertMatrices& w, std::int64_t rows, std::int64_t D) {
    Net net{&w, rows, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    for (bf16** place : {&net.gate, &net.up, &net.hidden, &net.d_up}) *place = arena.take<bf16>(rows * w.F);
    for (float** place : {&net.dx_gate, &net.dx_up}) *place = arena.take<float>(rows * D);
    return net;
}

struct Scratch {
    MoeGate gate;
    std::int32_t* first_row;  // [E + 1]
    std::int32_t* token_of;   // [visits]
    std::int32_t* visit_of;   // [T, active]
    float* d_logits;          // [visits]
    bf16* out;                // [visits, D], then its gradient
    Net routed, shared;
};

Scratch lay_out(Arena& arena, const MoeBackward& call, int level) {
    const std::int64_t visits = call.T * call.gate.active;
    Scratch s{};
    s.gate = call.gate;
    s.gate.workspace_bytes = moe_gate_up_to_workspace(call.gate, level);
    s.gate.workspace = arena.take<unsigned char>(s.gate.workspace_bytes);
    s.gate.experts = arena.take<std::int32_t>(visits);
    s.gate.expert_weights = arena.take<float>(visits);
    s.first_row = arena.take<std::int32_t>(call.gate.E + 1);
    s.token_of = arena.take<std::int32_t>(visits);
    s.visit_of = arena.take<std::int32_t>(visits);
    s.d_logits = arena.take<float>(visits);
    s.out = arena.take<bf16>(visits * call.D);
    s.routed = lay_out_net(arena, call.routed, visits, call.D);
    s.routed.first_row = s.first_row;
    s.routed.token_of = s.token_of;
    s.shared = lay_out_net(arena, call.shared, call.T, call.D);
    return s;
}

class Chain {
   public:
    Chain(const MoeBackward& call, int level) : call_(call), level_(level) {}

    // x W_gate, x W_up and silu(gate) * up
    void forward(const Net& net) const {
        product(net, call_.x, net.token_of, net.w->gate, call_.D, net.w->F, false, net.gate, nullptr);
        product(net, call_.x, net.token_of, net.w->up, call_.D, net.w->F, false, net.up, nullptr);
        silu_product(net.gate, net.up, net.hidden, net.rows * net.w->F, call_.stream);
    }
    // out = hidden W_down. [rows, D]
    void make_out(const Net& net, bf16* out) const {
        product(net, net.hidden, nullptr, net.w->down, net.w->F, call_.D, false, out, nullptr);
    }
    // d_out: [rows, D]  ->  the three weights' gradients, and the input's two parts
    void backward(const Net& net, const bf16* d_out) const {
        const std::int64_t F = net.w->F;
        of_weight(net, net.hidden, nullptr, F, d_out, call_.D, net.w->d_down);
        bf16* d_hidden = net.hidden;
        product(net, d_out, nullptr, net.w->down, call_.D, F, true, d_hidden, nullptr);
        silu_product_backward(net.gate, net.up, d_hidden, d_hidden, net.d_up, net.rows * F, call_.stream);
        const bf16* d_gate = d_hidden;
        of_weight(net, call_.x, net.token_of, call_.D, d_gate, F, net.w->d_gate);
        of_weight(net, call_.x, net.token_of, call_.D, net.d_up, F, net.w->d_up);
        product(net, d_gate, nullptr, net.w->gate, F, call_.D, true, nullptr, net.dx_gate);
        product(net, net.d_up, nullptr, net.w->up, F, call_.D, true, nullptr, net.dx_up);
    }

   private:
    // [rows, N] = x w, w [heads, K, N]; or x w^T, w [heads, N, K]. Into bf16 or float32.
    void product(const Net& net, const bf16* x, const std::int32_t* row_of, const bf16* w, std::int64_t K,
                 std::int64_t N, bool w_transposed, bf16* y, float* y_float32) const {
        Linear one = packed_linear(x, w, y, call_.T, K, N, call_.stream);  // a matrix has at most T rows
        one.y_float32 = y_float32;
        one.w_k = w_transposed ? 1 : N;
        one.w_n = w_transposed ? K : 1;
        one.w_head = K * N;
        one.heads = net.w->heads;
        one.first_row = net.first_row;
        one.row_of = row_of;
        linear(one, level_);
    }
    void of_weight(const Net& net, const bf16* x, const std::int32_t* row_of, std::int64_t M, const bf16* dy,
                   std::int64_t N, float* y) const {
        weight_gradient({.x = x,
                         .dy = dy,
                         .y = y,
                         .rows = net.rows,
                         .M = M,
                         .N = N,
                         .heads = net.w->heads,
                         .first_row = net.first_row,
                         .row_of = row_of,
                         .stream = call_.stream},
                        level_);
    }
    const MoeBackward& call_;
    int level_;
};

}  // namespace

std::int64_t moe_backward_chain_workspace(const MoeBackward& call, int level) {
    Arena arena;
    lay_out(arena, call, level);
    return arena.bytes();
}

void moe_backward_chain(const MoeBackward& call, int level) {
    require_workspace(call.workspace, call.workspace_bytes, moe_backward_chain_workspace(call, level));
    Arena arena(call.workspace);
    const Scratch s = lay_out(arena, call, level);
    const Chain chain(call, level);
    moe_gate_up_to(s.gate, level);
    const auto* scores = static_cast<const float*>(s.gate.workspace);  // [T, E]
    sort_visits(s.gate.experts, call.T, call.gate.active, call.gate.E, s.first_row, s.token_of, s.visit_of,
                call.stream);
    chain.forward(s.routed);
    chain.make_out(s.routed, s.out);
    choices_backward({.gate = &s.gate,
                      .scores = scores,
                      .visit_of = s.visit_of,
                      .dy = call.dy,
                      .out = s.out,
                      .d_logits = s.d_logits});
    chain.backward(s.routed, s.out);
    chain.forward(s.shared);
    chain.backward(s.shared, call.dy);
    gate_weight_gradient(call, s.first_row, s.token_of, s.d_logits);
    input_gradient(call, {.experts = s.gate.experts,
                          .visit_of = s.visit_of,
                          .d_logits = s.d_logits,
                          .from_gate = s.routed.dx_gate,
                          .from_up = s.routed.dx_up,
                          .shared_gate = s.shared.dx_gate,
                          .shared_up = s.shared.dx_up});
}

}  // namespace dsa
