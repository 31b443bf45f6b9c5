#include "optimized/sparse_prefill/op.h"

#include "optimized/support/ladder.h"

namespace dsa {

// The kept indices, [T, k].
std::int64_t sparse_prefill_workspace_1(const SparsePrefill& call) {
    return call.T * call.k * static_cast<std::int64_t>(sizeof(std::int32_t));
}

namespace {

const Ladder<SparsePrefill> ladder{
    "sparse_prefill",
    {{"one block a head", sparse_prefill_level_1, nullptr, sparse_prefill_workspace_1},
     {"tensor cores", sparse_prefill_level_2, sparse_prefill_level_2_declines, sparse_prefill_workspace_1},
     {"warpgroups of one job", sparse_prefill_level_3, sparse_prefill_level_3_declines, sparse_prefill_workspace_1},
     {"three tiles", sparse_prefill_level_4, sparse_prefill_level_3_declines, sparse_prefill_workspace_1},
     {"two score in turn", sparse_prefill_level_5, sparse_prefill_level_3_declines, sparse_prefill_workspace_1},
     {"selection inside", sparse_prefill_level_6, sparse_prefill_level_6_declines, nullptr},
     {"tokens as rows", sparse_prefill_level_7, sparse_prefill_level_7_declines, nullptr},
     {"keys as rows, on wgmma", sparse_prefill_level_8, sparse_prefill_level_8_declines, nullptr},
     {"last round in parts", sparse_prefill_level_9, sparse_prefill_level_9_declines, sparse_prefill_workspace_9}}};

SparsePrefill read(const dsa_sparse_prefill_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    SparsePrefill call{};
    call.q = tensors.in<bf16>("q", args.q, {"T", "H", "d"});
    call.kv = tensors.in<bf16>("kv", args.kv, {"S", "d"});
    call.indices = tensors.in<std::int32_t>("indices", args.indices, {"T", "k"});
    call.T = tensors.size("T");
    call.S = tensors.size("S");
    call.H = tensors.size("H");
    call.d = tensors.size("d");
    call.k = tensors.size("k");
    call.d_v = about.whole("d_v", args.d_v, std::min<std::int64_t>(512, call.d));
    require(call.d_v >= 0 && call.d_v <= call.d, "d_v must be at most the ", call.d, " columns of kv; it is ",
            call.d_v);
    call.result = result_of(about, args.scale);
    call.result.sink = tensors.maybe<float>("sink", args.sink, {"H"});
    tensors.bind("d_v", call.d_v);
    call.result.out = tensors.out<bf16>("out", args.out, {"T", "H", "d_v"});
    call.result.lse = tensors.out<float>("lse", args.lse, {"T", "H"});
    call.result.max_logit = tensors.out<float>("max_logit", args.max_logit, {"T", "H"});
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace

void sparse_prefill(const SparsePrefill& call) { ladder.run(call); }
std::int64_t sparse_prefill_workspace(const SparsePrefill& call) { return ladder.workspace(call); }

}  // namespace dsa

extern "C" {
int dsa_sparse_prefill(const dsa_sparse_prefill_args* args) {
    return dsa::answered([&] { dsa::sparse_prefill(dsa::read(*args)); });
}
int64_t dsa_sparse_prefill_workspace(const dsa_sparse_prefill_args* args) {
    return dsa::measured([&] { return dsa::sparse_prefill_workspace(dsa::read(*args)); });
}
}
