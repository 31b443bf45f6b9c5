#include "optimized/sparse_attention_backward/op.h"

#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<SparseAttentionBackward> ladder{
    "sparse_attention_backward",
    {{"one block a head, one block a latent", sparse_attention_backward_level_1, nullptr,
      sparse_attention_backward_workspace_1},
     {"tensor cores", sparse_attention_backward_level_2, sparse_attention_backward_level_2_declines,
      sparse_attention_backward_workspace_2}}};

SparseAttentionBackward read(const dsa_sparse_attention_backward_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    SparseAttentionBackward call{};
    call.q = tensors.in<bf16>("q", args.q, {"T", "H", "d"});
    call.kv = tensors.in<bf16>("kv", args.kv, {"S", "d"});
    call.indices = tensors.in<std::int32_t>("indices", args.indices, {"T", "k"});
    call.out = tensors.in<bf16>("out", args.out, {"T", "H", "d_v"});
    call.lse = tensors.in<float>("lse", args.lse, {"T", "H"});
    call.dout = tensors.in<bf16>("dout", args.dout, {"T", "H", "d_v"});
    call.dq = tensors.out<bf16>("dq", args.dq, {"T", "H", "d"});
    call.dkv = tensors.out<float>("dkv", args.dkv, {"S", "d"});
    call.T = tensors.size("T");
    call.S = tensors.size("S");
    call.H = tensors.size("H");
    call.d = tensors.size("d");
    call.d_v = tensors.size("d_v");
    call.k = tensors.size("k");
    require(call.d_v <= call.d, "out must have at most the ", call.d, " columns of kv; it has ", call.d_v);
    call.scale = static_cast<float>(about.softmax_scale(args.scale, 128, 64));
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_sparse_attention_backward(const dsa_sparse_attention_backward_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_sparse_attention_backward_workspace(const dsa_sparse_attention_backward_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
