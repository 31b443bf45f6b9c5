// Both halves of a block, each on a normalised copy and added to the stream.
#include "optimized/transformer_block/residual_stream.h"

#include <algorithm>

#include "optimized/rms_norm/op.h"
#include "optimized/support/arena.h"
#include "optimized/support/compose.h"
#include "optimized/support/ladder.h"
#include "optimized/support/stages.h"

namespace dsa {
namespace {

struct Scratch {
    bf16* attention_input;  // [T, D]
    bf16* attention_y;      // [T, D]
    bf16* middle;           // [T, D], the residual stream between the two halves
    bf16* ffn_input;        // [T, D]
    bf16* ffn_y;            // [T, D]
    FeedForwardScratch dense;
    Operand dense_x;
    void* of_parts;  // workspace of attention, then of the mixture
    std::int64_t of_parts_bytes;
};

// Of the net's parts: theirs has one more than this ladder.
int net_level(int level) { return level == 1 ? 1 : 3; }

Scratch lay_out(Arena& arena, const ResidualStream& call, std::int64_t attention_bytes, int level) {
    const std::int64_t count = call.T * call.D;
    Scratch s{};
    s.attention_input = arena.take<bf16>(count);
    s.attention_y = arena.take<bf16>(count);
    s.middle = arena.take<bf16>(count);
    s.ffn_input = arena.take<bf16>(count);
    s.ffn_y = arena.take<bf16>(count);
    s.of_parts_bytes = attention_bytes;
    if (call.is_mixture) {
        s.of_parts_bytes = std::max(s.of_parts_bytes, moe_chain_workspace(call.moe, net_level(level)));
    } else {
        s.dense = lay_out_feed_forward(arena, call.dense);
        s.dense_x = lay_out_rows(arena, s.ffn_input, call.T, call.D, call.dense.quantises_x());
    }
    s.of_parts = arena.take<unsigned char>(s.of_parts_bytes);
    return s;
}

void norm(const ResidualStream& call, const bf16* x, const float* weight, bf16* y, int level) {
    up_to(level, RmsNorm{x, weight, y, call.T, call.D, call.eps, call.stream}, rms_norm_level_1, rms_norm_level_2,
          rms_norm_level_2_declines);
}

void run_net(const ResidualStream& call, const Scratch& s, int level) {
    if (call.is_mixture) {
        Moe moe = call.moe;
        moe.x = moe.gate.x = s.ffn_input;
        moe.y = s.ffn_y;
        moe.workspace = s.of_parts;
        moe.workspace_bytes = s.of_parts_bytes;
        moe_chain(moe, net_level(level));
    } else {
        if (call.dense.quantises_x()) quantise_rows(s.dense_x, call.dense.ue8m0, level, call.stream);
        feed_forward(call.dense, s.dense_x, s.dense, s.ffn_y, net_level(level));
    }
}

}  // namespace

std::int64_t residual_stream_workspace(const ResidualStream& call, std::int64_t attention_bytes, int level) {
    Arena arena;
    lay_out(arena, call, attention_bytes, level);
    return arena.bytes();
}

void residual_stream(const ResidualStream& call, const Attending& attending, int level) {
    require_workspace(call.workspace, call.workspace_bytes,
                      residual_stream_workspace(call, attending.workspace_bytes, level));
    Arena arena(call.workspace);
    const Scratch s = lay_out(arena, call, attending.workspace_bytes, level);
    const std::int64_t count = call.T * call.D;
    norm(call, call.hidden, call.attention_norm, s.attention_input, level);
    show("attention_input", s.attention_input, {call.T, call.D}, call.stream);
    attending.run(s.attention_input, s.attention_y, s.of_parts);
    add(call.hidden, s.attention_y, s.middle, count, call.stream);
    show("after_attention", s.middle, {call.T, call.D}, call.stream);
    norm(call, s.middle, call.ffn_norm, s.ffn_input, level);
    show("ffn_input", s.ffn_input, {call.T, call.D}, call.stream);
    run_net(call, s, level);
    show("ffn_y", s.ffn_y, {call.T, call.D}, call.stream);
    add(s.middle, s.ffn_y, call.y, count, call.stream);
    show("after_ffn", call.y, {call.T, call.D}, call.stream);
}

}  // namespace dsa
