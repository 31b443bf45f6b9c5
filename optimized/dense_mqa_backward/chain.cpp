// The chain that every level is: scores and dout kv^T, the weights that they give, and three products with those.
#include <algorithm>

#include "optimized/dense_backward/weights.h"
#include "optimized/dense_mqa_backward/op.h"
#include "optimized/linear/heads.h"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

// How many queries fit at a time: a query has H S pairs, and H rows of a grid of tiles.
std::int64_t queries_at_a_time(const DenseMqaBackward& call) {
    constexpr std::int64_t most_rows = std::int64_t{65535} * 32;
    const std::int64_t fit =
        std::min(call.most_bytes / std::max<std::int64_t>(1, DenseScratch::bytes_of_pair * call.H * call.S),
                 most_rows / std::max<std::int64_t>(1, call.H));
    return std::clamp<std::int64_t>(fit, 1, std::max<std::int64_t>(1, call.T));
}

struct Scratch : DenseScratch {
    float* given;  // [S, d]: what some queries give to the latents

    Scratch(const DenseMqaBackward& call, Arena& arena)
        : DenseScratch(arena, call.T * call.H, queries_at_a_time(call) * call.H * call.S),
          given(arena.take<float>(call.S * call.d)) {}
};

}  // namespace

std::int64_t dense_mqa_backward_workspace(const DenseMqaBackward& call) {
    Arena arena;
    const Scratch scratch(call, arena);
    return arena.bytes();
}

void dense_mqa_backward_chain(const DenseMqaBackward& call, int level) {
    require_workspace(call.workspace, call.workspace_bytes, dense_mqa_backward_workspace(call));
    Arena arena(call.workspace);
    const Scratch scratch(call, arena);
    const std::int64_t most_queries = queries_at_a_time(call);
    dense_delta(call.out, call.dout, scratch.delta, call.T * call.H, call.d_v, call.stream);
    // All heads of a query are rows of one matrix, and meet the same latents.
    const auto product = [&](const HeadMatrices& x, const HeadMatrices& w, bool w_transposed) {
        return product_of_heads(x, w, w_transposed, 1, call.stream);
    };
    const auto to_float32 = [&](Linear one, float* y) {
        one.y_float32 = y;
        linear(one, level);
    };
    const HeadMatrices keys = packed_matrices(call.kv, call.S, call.d);
    const HeadMatrices values{call.kv, call.S, call.d_v, call.d, 0};  // the first columns
    // Without a query the latents' gradient is 0, which an empty sum also is.
    for (std::int64_t first = 0; first == 0 || first < call.T; first += most_queries) {
        const std::int64_t queries = std::min(most_queries, call.T - first);
        const std::int64_t rows = queries * call.H;
        const HeadMatrices q = packed_matrices(call.q + first * call.H * call.d, rows, call.d);
        const HeadMatrices dout = packed_matrices(call.dout + first * call.H * call.d_v, rows, call.d_v);
        to_float32(product(q, keys, true), scratch.scores);
        to_float32(product(dout, values, true), scratch.d_p);
        dense_weights({.scores = scratch.scores,
                       .d_p = scratch.d_p,
                       .lse = call.lse + first * call.H,
                       .delta = scratch.delta + first * call.H,
                       .start = call.start == nullptr ? nullptr : call.start + first,
                       .d_scores = scratch.d_scores,
                       .p_t = scratch.p_t,
                       .d_scores_t = scratch.d_scores_t,
                       .heads = 1,
                       .rows = rows,
                       .S = call.S,
                       .lse_row = 1,
                       .rows_of_query = call.H,
                       .end = call.causal ? call.S - call.T + 1 + first : call.S,
                       .scale = call.scale,
                       .stream = call.stream});
        Linear dq = product(packed_matrices(scratch.d_scores, rows, call.S), keys, false);
        dq.y = call.dq + first * call.H * call.d;
        linear(dq, level);
        to_float32(product(packed_matrices(scratch.d_scores_t, call.S, rows), q, false),
                   first == 0 ? call.dkv : scratch.given);
        if (first > 0) add_to_rows(call.dkv, call.d, scratch.given, call.S, call.d, call.stream);
        to_float32(product(packed_matrices(scratch.p_t, call.S, rows), dout, false), scratch.given);
        add_to_rows(call.dkv, call.d, scratch.given, call.S, call.d_v, call.stream);
    }
}

}  // namespace dsa
