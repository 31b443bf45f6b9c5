#include "optimized/rms_norm/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<RmsNorm> ladder{
    "rms_norm",
    {{"one block a row", rms_norm_level_1},
     {"a row in registers, 16 bytes at a time", rms_norm_level_2, rms_norm_level_2_declines}}};

RmsNorm read(const dsa_rms_norm_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    RmsNorm call{};
    call.x = tensors.in<bf16>("x", args.x, {"T", "D"});
    call.weight = tensors.in<float>("weight", args.weight, {"D"});
    call.y = tensors.out<bf16>("y", args.y, {"T", "D"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    require(call.D > 0, "rms_norm needs rows of at least one number; D is 0");
    call.eps = static_cast<float>(about.number("eps", args.eps, 1e-6));
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_rms_norm(const dsa_rms_norm_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_rms_norm_workspace(const dsa_rms_norm_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
