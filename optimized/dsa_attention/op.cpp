#include "optimized/dsa_attention/op.h"

#include "optimized/dsa_attention/read.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<DsaAttention> ladder{
    "dsa_attention",
    {{"every part at its level 1", dsa_attention_level_1, nullptr, dsa_attention_level_1_workspace},
     {"every part at its highest", dsa_attention_level_2, nullptr, dsa_attention_level_2_workspace}}};

DsaAttention read(const dsa_dsa_attention_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    DsaAttention call{};
    const bf16* x = tensors.in<bf16>("x", args.x, {"T", "D"});
    read_attention(about, tensors, args, x, call);
    call.y = tensors.out<bf16>("y", args.y, {"T", "D"});
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_dsa_attention(const dsa_dsa_attention_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_dsa_attention_workspace(const dsa_dsa_attention_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
