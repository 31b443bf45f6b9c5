// The chain that every level is: gate, sort, products, sum.
#include "optimized/moe/op.h"
#include "optimized/support/ladder.h"
#include "optimized/support/stages.h"

namespace dsa {
namespace {

struct Scratch {
    MoeGate gate;
    std::int32_t* first_row;  // [E + 1]
    std::int32_t* token_of;   // [visits]
    std::int32_t* visit_of;   // [T, active]
    Operand x;
    FeedForward routed, shared;
    FeedForwardScratch routed_scratch, shared_scratch;
    bf16* out;         // [visits, D]
    bf16* shared_out;  // [T, D]
};

Scratch lay_out(Arena& arena, const Moe& call, int level) {
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
    s.routed = {.gate = call.W_gate,
                .up = call.W_up,
                .down = call.W_down,
                .D = call.D,
                .F = call.F,
                .heads = call.gate.E,
                .most_rows = call.T,  // a token visits an expert at most once
                .rows = visits,
                .first_row = s.first_row,
                .row_of = s.token_of,
                .ue8m0 = call.ue8m0,
                .stream = call.stream};
    s.routed_scratch = lay_out_feed_forward(arena, s.routed);
    s.out = arena.take<bf16>(visits * call.D);
    bool quantises = s.routed.quantises_x();
    if (call.shared_W_gate.data != nullptr) {
        s.shared = {.gate = call.shared_W_gate,
                    .up = call.shared_W_up,
                    .down = call.shared_W_down,
                    .D = call.D,
                    .F = call.F_shared,
                    .most_rows = call.T,
                    .rows = call.T,
                    .ue8m0 = call.ue8m0,
                    .stream = call.stream};
        s.shared_scratch = lay_out_feed_forward(arena, s.shared);
        s.shared_out = arena.take<bf16>(call.T * call.D);
        quantises = quantises || s.shared.quantises_x();
    }
    s.x = lay_out_rows(arena, call.x, call.T, call.D, quantises);
    return s;
}

}  // namespace

std::int64_t moe_chain_workspace(const Moe& call, int level) {
    Arena arena;
    lay_out(arena, call, level);
    return arena.bytes();
}

void moe_chain(const Moe& call, int level) {
    require_workspace(call.workspace, call.workspace_bytes, moe_chain_workspace(call, level));
    Arena arena(call.workspace);
    const Scratch s = lay_out(arena, call, level);
    moe_gate_up_to(s.gate, level);
    show("gate_scores", static_cast<const float*>(s.gate.workspace), {call.T, call.gate.E}, call.stream);
    show("expert_ids", s.gate.experts, {call.T, call.gate.active}, call.stream);
    show("expert_weights", s.gate.expert_weights, {call.T, call.gate.active}, call.stream);
    sort_visits(s.gate.experts, call.T, call.gate.active, call.gate.E, s.first_row, s.token_of, s.visit_of,
                call.stream);
    if (s.x.quantised != nullptr) quantise_rows(s.x, call.ue8m0, level, call.stream);
    feed_forward(s.routed, s.x, s.routed_scratch, s.out, level);
    if (s.shared_out != nullptr) feed_forward(s.shared, s.x, s.shared_scratch, s.shared_out, level);
    combine_visits(s.out, s.visit_of, s.gate.expert_weights, s.shared_out, call.y, call.T, call.D, call.gate.active,
                   call.stream);
}

}  // namespace dsa
