// Scores, their softmax, and the product with the values.
#include "optimized/training_step/masked_attention.h"

#include <algorithm>

#include "optimized/linear/heads.h"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

struct Scratch {
    std::int64_t heads;  // at a time
    float* scores;       // [heads, T, T]
    bf16* p;             // [heads, T, T]

    Scratch(const MaskedAttention& call, Arena& arena) {
        const std::int64_t pairs = call.T * call.T;
        constexpr std::int64_t bytes_of_pair = sizeof(float) + sizeof(bf16);
        const std::int64_t fit = call.most_bytes / std::max<std::int64_t>(1, bytes_of_pair * pairs);
        heads = std::clamp<std::int64_t>(fit, 1, std::max<std::int64_t>(1, call.H));
        scores = arena.take<float>(heads * pairs);
        p = arena.take<bf16>(heads * pairs);
    }
};

}  // namespace

std::int64_t masked_attention_workspace(const MaskedAttention& call) {
    Arena arena;
    const Scratch scratch(call, arena);
    return arena.bytes();
}

void masked_attention(const MaskedAttention& call, int level) {
    require_workspace(call.workspace, call.workspace_bytes, masked_attention_workspace(call));
    Arena arena(call.workspace);
    const Scratch scratch(call, arena);
    const std::int64_t T = call.T;
    for (std::int64_t first = 0; first < call.H; first += scratch.heads) {
        const std::int64_t heads = std::min(scratch.heads, call.H - first);
        const auto of = [&](const bf16* tensor, std::int64_t columns) {
            return matrices_of_heads(tensor, first, T, call.H, columns);
        };
        Linear scores = product_of_heads(of(call.q, call.d), of(call.k, call.d), true, heads, call.stream);
        scores.y_float32 = scratch.scores;
        linear(scores, level);
        masked_softmax(call, scratch.scores, scratch.p, call.lse + first, heads);
        if (call.target != nullptr) add_to_target(call, scratch.scores, first, heads);
        Linear values =
            product_of_heads(packed_matrices(scratch.p, T, T), of(call.v, call.d_v), false, heads, call.stream);
        values.y = call.out + first * call.d_v;
        values.y_row = call.H * call.d_v;
        values.y_head = call.d_v;
        linear(values, level);
    }
}

}  // namespace dsa
