// A gate's part of a call's struct: dsa.h's structs of moe_gate, moe and transformer_block have these fields in
// common.
#pragma once

#include "optimized/moe_gate/op.h"
#include "optimized/support/arguments.h"
#include "optimized/support/case.h"

namespace dsa {

// W_g [D, E], bias [E] and the parameters; binds the axes E and active. T and D are bound before.
template <class Args>
void read_gate(const Case& about, Arguments& tensors, const Args& args, MoeGate& call) {
    call.W_g_is_bf16 = args.W_g.dtype == dsa_bfloat16;
    if (call.W_g_is_bf16)
        call.W_g = tensors.in<bf16>("W_g", args.W_g, {"D", "E"});
    else
        call.W_g = tensors.in<float>("W_g", args.W_g, {"D", "E"});
    if (about.conventions().gate_bias) call.bias = tensors.in<float>("bias", args.bias, {"E"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    call.E = tensors.size("E");
    const auto whole = [&](const char* name, std::int64_t field, std::int64_t otherwise) {
        const std::int64_t value = about.whole(name, field, otherwise);
        require(value > 0 && value <= call.E, "the parameter ", name, " must be from 1 to the ", call.E,
                " experts; it is ", value);
        return static_cast<int>(value);
    };
    call.groups = whole("groups", args.groups, 8);
    call.kept_groups = whole("kept_groups", args.kept_groups, 4);
    call.active = whole("active", args.active, 8);
    tensors.bind("active", call.active);
    // Without case_json a struct's 0 says "no"; with it, what is not said has its default.
    call.normalise = about.flag("normalise", args.normalise, args.case_json != nullptr);
    call.route_scale = static_cast<float>(about.number("route_scale", args.route_scale, 2.5));
    call.router_eps = static_cast<float>(about.conventions().router_eps);
    require_gate(call);
}

}  // namespace dsa
