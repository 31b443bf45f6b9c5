#include "optimized/act_quant/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<ActQuant> ladder{"act_quant",
                              {{"one block of threads a block of numbers", act_quant_level_1},
                               {"one warp a block of numbers", act_quant_level_2, act_quant_level_2_declines}}};

ActQuant read(const dsa_act_quant_args& args) {
    const Case about(args.case_json);
    ActQuant call{};
    const std::int64_t block = about.whole("block", args.block, 128);
    require(block > 0 && block <= 1 << 20, "the parameter block must be from 1 to 2^20; it is ", block);
    call.block = static_cast<int>(block);
    Arguments tensors;
    if (args.x.dtype == dsa_float32)
        call.x_float = tensors.in<float>("x", args.x, {"T", "N"});
    else
        call.x = tensors.in<bf16>("x", args.x, {"T", "N"});
    require(tensors.size("N") % block == 0, "the last axis must be a multiple of the block of ", block, "; it is ",
            tensors.size("N"));
    tensors.bind("N/block", tensors.size("N") / block);
    call.quantizer = about.conventions().quantizer;
    call.ue8m0 = about.conventions().ue8m0;
    if (call.quantizer == Quantizer::none)
        call.q_bf16 = tensors.out<bf16>("q", args.q, {"T", "N"});
    else
        call.q = tensors.out<e4m3>("q", args.q, {"T", "N"});
    call.scale = tensors.out<float>("scale", args.scale, {"T", "N/block"});
    call.blocks = tensors.size("T") * tensors.size("N/block");
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_act_quant(const dsa_act_quant_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_act_quant_workspace(const dsa_act_quant_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
