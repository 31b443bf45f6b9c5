// The chain that every level is: scores and dout v^T, the weights that they give, and three products with those.
#include <algorithm>

#include "optimized/dense_backward/weights.h"
#include "optimized/dense_mha_backward/op.h"
#include "optimized/linear/heads.h"
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
    const auto to_scratch = [&](const HeadMatrices& x, const HeadMatrices& w, float* y, std::int64_t heads) {
        Linear one = product_of_heads(x, w, true, heads, call.stream);
        one.y_float32 = y;
        linear(one, level);
    };
    const auto to_gradient = [&](const HeadMatrices& x, const HeadMatrices& w, bf16* y, float* y_float32,
                                 std::int64_t heads) {
        Linear one = product_of_heads(x, w, false, heads, call.stream);
        one.y = y;
        one.y_float32 = y_float32;
        one.y_row = call.H * one.N;
        one.y_head = one.N;
        linear(one, level);
    };
    for (std::int64_t first = 0; first < call.H; first += most_heads) {
        const std::int64_t heads = std::min(most_heads, call.H - first);
        const auto of = [&](const bf16* tensor, std::int64_t rows, std::int64_t columns) {
            return matrices_of_heads(tensor, first, rows, call.H, columns);
        };
        const HeadMatrices q = of(call.q, call.T, call.d);
        const HeadMatrices k = of(call.k, call.S, call.d);
        const HeadMatrices dout = of(call.dout, call.T, call.d_v);
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
        to_gradient(packed_matrices(scratch.d_scores, call.T, call.S), k, call.dq + first * call.d, nullptr, heads);
        const bool in_float32 = call.dk_float32 != nullptr;
        to_gradient(packed_matrices(scratch.d_scores_t, call.S, call.T), q,
                    in_float32 ? nullptr : call.dk + first * call.d,
                    in_float32 ? call.dk_float32 + first * call.d : nullptr, heads);
        to_gradient(packed_matrices(scratch.p_t, call.S, call.T), dout, call.dv + first * call.d_v, nullptr, heads);
    }
}

}  // namespace dsa
