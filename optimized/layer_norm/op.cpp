#include "optimized/layer_norm/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<LayerNorm> ladder{
    "layer_norm",
    {{"one block a row", layer_norm_level_1}, {"one warp a row", layer_norm_level_2, layer_norm_level_2_declines}}};

LayerNorm read(const dsa_layer_norm_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    LayerNorm call{};
    call.x = tensors.in<bf16>("x", args.x, {"T", "D"});
    call.weight = tensors.in<float>("weight", args.weight, {"D"});
    call.bias = tensors.in<float>("bias", args.bias, {"D"});
    call.y = tensors.out<bf16>("y", args.y, {"T", "D"});
    call.T = tensors.size("T");
    call.D = tensors.size("D");
    require(call.D > 0, "layer_norm needs rows of at least one number; D is 0");
    call.eps = static_cast<float>(about.number("eps", args.eps, 1e-6));
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_layer_norm(const dsa_layer_norm_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_layer_norm_workspace(const dsa_layer_norm_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
