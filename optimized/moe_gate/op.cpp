#include "optimized/moe_gate/op.h"

#include "optimized/moe_gate/read.h"
#include "optimized/support/at_level.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<MoeGate> ladder{
    "moe_gate",
    {{"a thread an expert", moe_gate_level_1, nullptr, moe_gate_level_1_workspace},
     {"8 tokens at once, D split over blocks", moe_gate_level_2, nullptr, moe_gate_level_2_workspace},
     {"a float32 number as three bf16 numbers on the tensor cores", moe_gate_level_3, moe_gate_level_3_declines,
      moe_gate_level_3_workspace}}};

// Few tokens are a matter of reading W_g, and level 3 reads it, writes its parts and reads those.
int fastest_level(const MoeGate& call, int most) {
    constexpr std::int64_t enough_tokens = 128;
    if (most >= 3 && call.T >= enough_tokens && moe_gate_level_3_declines(call).empty()) return 3;
    return most < 2 ? most : 2;
}

MoeGate read(const dsa_moe_gate_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    MoeGate call{};
    call.x = tensors.in<bf16>("x", args.x, {"T", "D"});
    read_gate(about, tensors, args, call);
    call.experts = tensors.out<std::int32_t>("experts", args.experts, {"T", "active"});
    call.expert_weights = tensors.out<float>("expert_weights", args.expert_weights, {"T", "active"});
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace

void require_gate(const MoeGate& call) {
    require(call.D > 0, "moe_gate needs tokens of at least one number; D is 0");
    require(call.E > 0 && call.E <= most_experts, "moe_gate takes 1 to ", most_experts, " experts; E is ", call.E);
    require(call.groups > 0 && call.E % call.groups == 0, "moe_gate: ", call.E, " experts do not divide into ",
            call.groups, " groups");
    require(call.kept_groups > 0 && call.kept_groups <= call.groups, "moe_gate: kept_groups must be from 1 to the ",
            call.groups, " groups; it is ", call.kept_groups);
    const std::int64_t candidates = call.kept_groups * (call.E / call.groups);
    require(call.active > 0 && call.active <= candidates, "moe_gate: active must be from 1 to the ", candidates,
            " experts of the kept groups; it is ", call.active);
}

void moe_gate(const MoeGate& call) {
    const AtLevel level(chosen_level() == 0 ? fastest_level(call, 3) : chosen_level());
    require_workspace(call.workspace, call.workspace_bytes, ladder.workspace(call));
    ladder.run(call);
}
std::int64_t moe_gate_workspace(const MoeGate& call) {
    const AtLevel level(chosen_level() == 0 ? fastest_level(call, 3) : chosen_level());
    return ladder.workspace(call);
}

void moe_gate_up_to(const MoeGate& call, int most) {
    const AtLevel level(fastest_level(call, most));
    moe_gate(call);
}
std::int64_t moe_gate_up_to_workspace(const MoeGate& call, int most) {
    const AtLevel level(fastest_level(call, most));
    return moe_gate_workspace(call);
}

}  // namespace dsa

extern "C" {
int dsa_moe_gate(const dsa_moe_gate_args* args) {
    return dsa::answered([&] { dsa::moe_gate(dsa::read(*args)); });
}
int64_t dsa_moe_gate_workspace(const dsa_moe_gate_args* args) {
    return dsa::measured([&] { return dsa::moe_gate_workspace(dsa::read(*args)); });
}
}
