#include "optimized/moe/op.h"

#include "optimized/moe/read.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<Moe> ladder{
    "moe",
    {{"grouped products of plain tiles", moe_level_1, nullptr, moe_level_1_workspace},
     {"grouped products on the tensor cores", moe_level_2, nullptr, moe_level_2_workspace},
     {"warp-specialised grouped products over a table of tiles", moe_level_3, nullptr, moe_level_3_workspace}}};

Moe read(const dsa_moe_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    Moe call{};
    call.x = call.gate.x = tensors.in<bf16>("x", args.x, {"T", "D"});
    read_moe(about, tensors, args, call);
    call.y = tensors.out<bf16>("y", args.y, {"T", "D"});
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = call.gate.stream = args.stream;
    return call;
}

}  // namespace

void moe(const Moe& call) { ladder.run(call); }
std::int64_t moe_workspace(const Moe& call) { return ladder.workspace(call); }

}  // namespace dsa

extern "C" {
int dsa_moe(const dsa_moe_args* args) {
    return dsa::answered([&] { dsa::moe(dsa::read(*args)); });
}
int64_t dsa_moe_workspace(const dsa_moe_args* args) {
    return dsa::measured([&] { return dsa::moe_workspace(dsa::read(*args)); });
}
}
