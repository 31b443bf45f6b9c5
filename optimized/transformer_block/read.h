// A call's struct around its attention, which transformer_block and the serving step of a whole block have in common.
// What attention reads stands between the two functions.
#pragma once

#include "optimized/moe/read.h"
#include "optimized/transformer_block/op.h"

namespace dsa {

// The residual stream and its norms; binds T and D.
template <class Args>
void read_hidden(Arguments& tensors, const Args& args, ResidualStream& call) {
    call.hidden = tensors.in<bf16>("hidden", args.hidden, {"T", "D"});
    call.attention_norm = tensors.in<float>("attention_norm", args.attention_norm, {"D"});
    call.ffn_norm = tensors.in<float>("ffn_norm", args.ffn_norm, {"D"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
}

template <class Args>
FeedForward read_dense(const Case& about, Arguments& tensors, const Args& args) {
    FeedForward dense{};
    dense.gate = read_matrix(tensors, "W_gate", args.W_gate, args.W_gate_scale, {"D", "F"});
    dense.up = read_matrix(tensors, "W_up", args.W_up, args.W_up_scale, {"D", "F"});
    dense.down = read_matrix(tensors, "W_down", args.W_down, args.W_down_scale, {"F", "D"});
    dense.D = tensors.size("D");
    dense.F = tensors.size("F");
    dense.most_rows = dense.rows = tensors.size("T");
    dense.ue8m0 = about.conventions().ue8m0;
    dense.stream = args.stream;
    return dense;
}

// The feed-forward net, a mixture of experts where there is a gate, and what is left.
template <class Args>
void read_net(const Case& about, Arguments& tensors, const Args& args, ResidualStream& call) {
    call.is_mixture = args.W_g.data != nullptr;
    if (call.is_mixture) {
        read_moe(about, tensors, args, call.moe);
        call.moe.stream = call.moe.gate.stream = args.stream;
    } else {
        call.dense = read_dense(about, tensors, args);
    }
    call.y = tensors.out<bf16>("y", args.y, {"T", "D"});
    call.eps = static_cast<float>(about.number("eps", args.eps, 1e-6));
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
}

}  // namespace dsa
