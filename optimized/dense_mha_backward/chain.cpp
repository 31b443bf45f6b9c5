// The chain that every level is: scores and dout v^T, the weights that they give, and three products with those.
#include <algorithm>

#include "optimized/dense_backward/weights.h"
#include "optimized/dense_mha_backward/op.h"
#include "optimized/linear/linear.h"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

// How many heads fit at a time: a head has T S pairs.
std::int64_t heads_at_a_time(const DenseMhaBackward& call) {
    const std::int64_t fit =
        call.most_bytes / std::max<std::int64_t>(1, DenseScratch::bytes_of_pair * call.T * call.S);
    return std::clamp<std::int64_t>(fit, 1, std::max<std::int64_t>(1, call.H));
}

DenseScratch lay_out(Arena& arena, const DenseMhaBackward& call) {
    return DenseScratch(arena, call.T * call.H, heads_at_a_time(call) * call.T * call.S);
}

// A matrix [rows, columns] a head: of a tensor [rows, H, columns], or of scratch [heads, rows, columns].
struct Operand {
    const bf16* data;
    std::int64_t rows, columns;
    std::int64_t row, head;  // numbers to the next
};

// y = x w, or x w^T
Linear product(const Operand& x, const Operand& w, bool w_transposed, std::int64_t heads, Stream stream) {
    Linear call{};
    call.x = x.data;
    call.x_row = x.row;
    call.x_head = x.head;
    call.w = w.data;
    call.w_k = w_transposed ? 1 : w.row;
    call.w_n = w_transposed ? w.row : 1;
    call.w_head = w.head;
    call.T = x.rows;
    call.K = x.columns;
    call.N = w_transposed ? w.rows : w.columns;
    call.heads = heads;
    call.stream = stream;
    return call;
}

}  // namespace

std::int64_t dense_mha_backward_workspace(const DenseMhaBackward& call) {
    Arena arena;
    lay_out(arena, call);
    return arena.bytes();
}

void dense_mha_backward_chain(const DenseMhaBackward& call, int level) {
    require_workspace(call.workspace, call.workspace_bytes, dense_mha_backward_workspace(call));
    Arena arena(call.workspace);
    const DenseScratch scratch = lay_out(arena, call);
    const std::int64_t most_heads = heads_at_a_time(call);
    dense_delta(call.out, call.dout, scratch.delta, call.T * call.H, call.d_v, call.stream);
    const auto to_scratch = [&](const Operand& x, const Operand& w, float* y, std::int64_t heads) {
        Linear one = product(x, w, true, heads, call.stream);
        one.y_float32 = y;
        one.y_row = one.N;
        one.y_head = one.T * one.N;
        linear(one, level);
    };
    const auto to_gradient = [&](const Operand& x, const Operand& w, bf16* y, float* y_float32, std::int64_t heads) {
        Linear one = product(x, w, false, heads, call.stream);
        one.y = y;
        one.y_float32 = y_float32;
        one.y_row = call.H * one.N;
        one.y_head = one.N;
        linear(one, level);
    };
    for (std::int64_t first = 0; first < call.H; first += most_heads) {
        const std::int64_t heads = std::min(most_heads, call.H - first);
        const auto of = [&](const bf16* tensor, std::int64_t rows, std::int64_t columns) {
            return Operand{tensor + first * columns, rows, columns, call.H * columns, columns};
        };
        const auto in = [](const bf16* data, std::int64_t rows, std::int64_t columns) {
            return Operand{data, rows, columns, columns, rows * columns};
        };
        const Operand q = of(call.q, call.T, call.d);
        const Operand k = of(call.k, call.S, call.d);
        const Operand dout = of(call.dout, call.T, call.d_v);
        to_scratch(q, k, scratch.scores, heads);
        to_scratch(dout, of(call.v, call.S, call.d_v), scratch.d_p, heads);
        dense_weights({.scores = scratch.scores,
                       .d_p = scratch.d_p,
                       .lse = call.lse + first,
                       .delta = scratch.delta + first,
                       .start = call.start,
                       .d_scores = scratch.d_scores,
                       .p_t = scratch.p_t,
                       .d_scores_t = scratch.d_scores_t,
                       .heads = heads,
                       .rows = call.T,
                       .S = call.S,
                       .lse_row = call.H,
                       .rows_of_query = 1,
                       .end = call.causal ? call.S - call.T + 1 : call.S,
                       .scale = call.scale,
                       .stream = call.stream,
                       .selectors = call.selectors,
                       .out_is_of_scores = call.dk_float32 != nullptr});
        to_gradient(in(scratch.d_scores, call.T, call.S), k, call.dq + first * call.d, nullptr, heads);
        const bool in_float32 = call.dk_float32 != nullptr;
        to_gradient(in(scratch.d_scores_t, call.S, call.T), q, in_float32 ? nullptr : call.dk + first * call.d,
                    in_float32 ? call.dk_float32 + first * call.d : nullptr, heads);
        to_gradient(in(scratch.p_t, call.S, call.T), dout, call.dv + first * call.d_v, nullptr, heads);
    }
}

}  // namespace dsa
