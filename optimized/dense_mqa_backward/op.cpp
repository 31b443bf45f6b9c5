#include "optimized/dense_mqa_backward/op.h"

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<DenseMqaBackward> ladder{
    "dense_mqa_backward",
    {{"products of plain tiles", dense_mqa_backward_level_1, nullptr, dense_mqa_backward_workspace},
     {"tensor cores", dense_mqa_backward_level_2, nullptr, dense_mqa_backward_workspace}}};

DenseMqaBackward read(const dsa_dense_mqa_backward_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    DenseMqaBackward call{};
    call.q = tensors.in<bf16>("q", args.q, {"T", "H", "d"});
    call.kv = tensors.in<bf16>("kv", args.kv, {"S", "d"});
    call.out = tensors.in<bf16>("out", args.out, {"T", "H", "d_v"});
    call.lse = tensors.in<float>("lse", args.lse, {"T", "H"});
    call.dout = tensors.in<bf16>("dout", args.dout, {"T", "H", "d_v"});
    call.start = tensors.maybe<std::int32_t>("start", args.start, {"T"});
    call.dq = tensors.out<bf16>("dq", args.dq, {"T", "H", "d"});
    call.dkv = tensors.out<float>("dkv", args.dkv, {"S", "d"});
    call.T = tensors.size("T");
    call.S = tensors.size("S");
    call.H = tensors.size("H");
    call.d = tensors.size("d");
    call.d_v = tensors.size("d_v");
    require(call.d_v <= call.d, "out must have at most the ", call.d, " columns of kv; it has ", call.d_v);
    // Without a case the field says it: 0 is no.
    call.causal = args.case_json == nullptr ? args.causal != 0 : about.flag("causal", 0, true);
    require(!call.causal || call.S >= call.T, "causal attention needs S >= T: the T = ", call.T,
            " queries are the last of the context; S is ", call.S);
    call.scale = static_cast<float>(about.softmax_scale(args.scale, 128, 64));
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_dense_mqa_backward(const dsa_dense_mqa_backward_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_dense_mqa_backward_workspace(const dsa_dense_mqa_backward_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
