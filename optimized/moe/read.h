// A mixture's part of a call's struct, which moe and transformer_block have in common.
#pragma once

#include "optimized/moe/op.h"
#include "optimized/moe_gate/read.h"

namespace dsa {

// The gate, the experts' weights and the shared expert's. T and D are bound before.
template <class Args>
void read_moe(const Case& about, Arguments& tensors, const Args& args, Moe& call) {
    read_gate(about, tensors, args, call.gate);
    call.W_gate = read_matrix(tensors, "W_gate", args.W_gate, args.W_gate_scale, {"E", "D", "F"});
    call.W_up = read_matrix(tensors, "W_up", args.W_up, args.W_up_scale, {"E", "D", "F"});
    call.W_down = read_matrix(tensors, "W_down", args.W_down, args.W_down_scale, {"E", "F", "D"});
    if (args.shared_W_gate.data != nullptr) {
        call.shared_W_gate =
            read_matrix(tensors, "shared_W_gate", args.shared_W_gate, args.shared_W_gate_scale, {"D", "F_shared"});
        call.shared_W_up =
            read_matrix(tensors, "shared_W_up", args.shared_W_up, args.shared_W_up_scale, {"D", "F_shared"});
        call.shared_W_down =
            read_matrix(tensors, "shared_W_down", args.shared_W_down, args.shared_W_down_scale, {"F_shared", "D"});
        call.F_shared = tensors.size("F_shared");
    }
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    call.F = tensors.size("F");
    require(call.F > 0, "an expert needs a hidden size of at least 1; F is 0");
    require(call.T * call.gate.active <= INT32_MAX,
            "moe counts visits in 32 bits: T x active must be below 2^31; it is ", call.T * call.gate.active);
    call.ue8m0 = about.conventions().ue8m0;
}

}  // namespace dsa
