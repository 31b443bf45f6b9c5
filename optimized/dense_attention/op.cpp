#include "optimized/dense_attention/op.h"

#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<DenseAttention> ladder{"dense_attention",
                                    {{"one block a head", dense_attention_level_1},
                                     {"tensor cores", dense_attention_level_2, dense_attention_level_2_declines},
                                     {"two warpgroups in turn", dense_attention_level_3,
                                      dense_attention_level_3_declines, dense_attention_level_3_workspace},
                                     {"own heads", dense_attention_level_4, dense_attention_level_4_declines}}};

DenseAttention read(const dsa_dense_attention_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    DenseAttention call{};
    const std::string mode = about.text("mode", args.kv.data == nullptr && args.k.data != nullptr ? "mha" : "mqa");
    require(mode == "mqa" || mode == "mha", "mode must be mqa or mha; it is \"", mode, "\"");
    call.mqa = mode == "mqa";
    call.q = tensors.in<bf16>("q", args.q, {"T", "H", "d"});
    call.T = tensors.size("T");
    call.H = tensors.size("H");
    call.d = tensors.size("d");
    if (call.mqa) {
        call.keys = call.values = tensors.in<bf16>("kv", args.kv, {"S", "d"});
        call.d_v = about.whole("d_v", args.d_v, std::min<std::int64_t>(512, call.d));
        require(call.d_v >= 0 && call.d_v <= call.d, "d_v must be at most the ", call.d, " columns of kv; it is ",
                call.d_v);
        tensors.bind("d_v", call.d_v);
    } else {
        call.keys = tensors.in<bf16>("k", args.k, {"S", "H", "d"});
        call.values = tensors.in<bf16>("v", args.v, {"S", "H", "d_v"});
        call.d_v = tensors.size("d_v");
    }
    call.S = tensors.size("S");
    // Without a case the field says it: 0 is no.
    call.causal = args.case_json == nullptr ? args.causal != 0 : about.flag("causal", 0, true);
    require(!call.causal || call.S >= call.T, "causal attention needs S >= T: the T = ", call.T,
            " queries are the last of the context; S is ", call.S);
    call.start = tensors.maybe<std::int32_t>("start", args.start, {"T"});
    call.result = result_of(about, args.scale);
    call.result.sink = tensors.maybe<float>("sink", args.sink, {"H"});
    call.result.out = tensors.out<bf16>("out", args.out, {"T", "H", "d_v"});
    call.result.lse = tensors.out<float>("lse", args.lse, {"T", "H"});
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_dense_attention(const dsa_dense_attention_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_dense_attention_workspace(const dsa_dense_attention_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
