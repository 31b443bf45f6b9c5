#include "optimized/moe_backward/op.h"

#include "optimized/moe_gate/read.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<MoeBackward> ladder{
    "moe_backward",
    {{"grouped products of plain tiles", moe_backward_level_1, nullptr, moe_backward_level_1_workspace},
     {"grouped products on the tensor cores", moe_backward_level_2, nullptr, moe_backward_level_2_workspace},
     {"warp-specialised products of rows over a table of tiles", moe_backward_level_3, nullptr,
      moe_backward_level_3_workspace}}};

MoeBackward read(const dsa_moe_backward_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    MoeBackward call{};
    call.x = call.gate.x = tensors.in<bf16>("x", args.x, {"T", "D"});
    read_gate(about, tensors, args, call.gate);
    call.routed.gate = tensors.in<bf16>("W_gate", args.W_gate, {"E", "D", "F"});
    call.routed.up = tensors.in<bf16>("W_up", args.W_up, {"E", "D", "F"});
    call.routed.down = tensors.in<bf16>("W_down", args.W_down, {"E", "F", "D"});
    call.shared.gate = tensors.in<bf16>("shared_W_gate", args.shared_W_gate, {"D", "F_s"});
    call.shared.up = tensors.in<bf16>("shared_W_up", args.shared_W_up, {"D", "F_s"});
    call.shared.down = tensors.in<bf16>("shared_W_down", args.shared_W_down, {"F_s", "D"});
    call.dy = tensors.in<bf16>("dy", args.dy, {"T", "D"});
    call.dx = tensors.out<bf16>("dx", args.dx, {"T", "D"});
    call.dW_g = tensors.out<float>("dW_g", args.dW_g, {"D", "E"});
    call.routed.d_gate = tensors.out<float>("dW_gate", args.dW_gate, {"E", "D", "F"});
    call.routed.d_up = tensors.out<float>("dW_up", args.dW_up, {"E", "D", "F"});
    call.routed.d_down = tensors.out<float>("dW_down", args.dW_down, {"E", "F", "D"});
    call.shared.d_gate = tensors.out<float>("dshared_W_gate", args.dshared_W_gate, {"D", "F_s"});
    call.shared.d_up = tensors.out<float>("dshared_W_up", args.dshared_W_up, {"D", "F_s"});
    call.shared.d_down = tensors.out<float>("dshared_W_down", args.dshared_W_down, {"F_s", "D"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    call.routed.heads = call.gate.E;
    call.routed.F = tensors.size("F");
    call.shared.heads = 1;
    call.shared.F = tensors.size("F_s");
    require(call.routed.F > 0 && call.shared.F > 0, "an expert needs a hidden size of at least 1; F is ",
            call.routed.F, ", F_s ", call.shared.F);
    require(call.T * call.gate.active <= INT32_MAX,
            "moe_backward counts visits in 32 bits: T x active must be below 2^31; it is ",
            call.T * call.gate.active);
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = call.gate.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_moe_backward(const dsa_moe_backward_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_moe_backward_workspace(const dsa_moe_backward_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
