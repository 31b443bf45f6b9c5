#include "optimized/rms_norm_backward/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<RmsNormBackward> ladder{
    "rms_norm_backward",
    {{"one block a row, one thread a column", rms_norm_backward_level_1, nullptr,
      rms_norm_backward_level_1_workspace},
     {"tokens in pieces", rms_norm_backward_level_2, nullptr, rms_norm_backward_level_2_workspace}}};

RmsNormBackward read(const dsa_rms_norm_backward_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    RmsNormBackward call{};
    call.x = tensors.in<bf16>("x", args.x, {"T", "D"});
    call.weight = tensors.in<float>("weight", args.weight, {"D"});
    call.dy = tensors.in<bf16>("dy", args.dy, {"T", "D"});
    call.dx = tensors.out<bf16>("dx", args.dx, {"T", "D"});
    call.dweight = tensors.out<float>("dweight", args.dweight, {"D"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    require(call.D > 0, "rms_norm_backward needs rows of at least one number; D is 0");
    call.eps = static_cast<float>(about.number("eps", args.eps, 1e-6));
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_rms_norm_backward(const dsa_rms_norm_backward_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_rms_norm_backward_workspace(const dsa_rms_norm_backward_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
