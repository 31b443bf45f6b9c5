#include "optimized/sparse_decode/op.h"

#include "optimized/support/ladder.h"

namespace dsa {

// The kept slots, [rows, k].
std::int64_t sparse_decode_workspace_1(const SparseDecode& call) {
    return call.rows * call.k * static_cast<std::int64_t>(sizeof(std::int32_t));
}

namespace {

const Ladder<SparseDecode> ladder{
    "sparse_decode",
    {{"one block a head", sparse_decode_level_1, nullptr, sparse_decode_workspace_1},
     {"tensor cores", sparse_decode_level_2, sparse_decode_level_2_declines, sparse_decode_workspace_1},
     {"split over blocks", sparse_decode_level_3, sparse_decode_level_2_declines, sparse_decode_workspace_3},
     {"producers and wgmma", sparse_decode_level_4, sparse_decode_level_4_declines, sparse_decode_workspace_4},
     {"selection inside", sparse_decode_level_5, sparse_decode_level_5_declines, sparse_decode_workspace_5},
     {"a cluster shares the conversion", sparse_decode_level_6, sparse_decode_level_6_declines,
      sparse_decode_workspace_5},
     {"three tiles", sparse_decode_level_7, sparse_decode_level_7_declines, sparse_decode_workspace_7},
     {"one tile a block", sparse_decode_level_8, sparse_decode_level_8_declines, sparse_decode_workspace_8},
     {"tokens as rows", sparse_decode_level_9, sparse_decode_level_9_declines, sparse_decode_workspace_9},
     {"codes through registers", sparse_decode_level_10, sparse_decode_level_10_declines,
      sparse_decode_workspace_10}}};

SparseDecode read(const dsa_sparse_decode_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    SparseDecode call{};
    call.q = tensors.in<bf16>("q", args.q, {"B", "s_q", "H", "R_kv + d_rope"});
    call.d = tensors.size("R_kv + d_rope");
    const std::int64_t R_kv = about.whole("R_kv", args.R_kv, 512);
    require(R_kv > 0 && R_kv < call.d && call.d <= 1 << 16 && (R_kv <= 128 || R_kv % 128 == 0),
            "R_kv must be below the ", call.d, " columns of q, and beyond 128 a multiple of 128; it is ", R_kv);
    call.R_kv = static_cast<int>(R_kv);
    tensors.bind("R_kv", R_kv);
    tensors.bind("token bytes", call.token_bytes());
    call.kv_pages = tensors.in<std::uint8_t>("kv_pages", args.kv_pages, {"pages", "64", "token bytes"});
    call.indices = tensors.in<std::int32_t>("indices", args.indices, {"B", "s_q", "k"});
    call.rows = tensors.size("B") * tensors.size("s_q");
    call.slots = 64 * tensors.size("pages");
    call.H = tensors.size("H");
    call.k = tensors.size("k");
    call.result = result_of(about, args.scale);
    call.result.sink = tensors.maybe<float>("sink", args.sink, {"H"});
    call.result.out = tensors.out<bf16>("out", args.out, {"B", "s_q", "H", "R_kv"});
    call.result.lse = tensors.out<float>("lse", args.lse, {"B", "s_q", "H"});
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace

void sparse_decode(const SparseDecode& call) { ladder.run(call); }
std::int64_t sparse_decode_workspace(const SparseDecode& call) { return ladder.workspace(call); }

}  // namespace dsa

extern "C" {
int dsa_sparse_decode(const dsa_sparse_decode_args* args) {
    return dsa::answered([&] { dsa::sparse_decode(dsa::read(*args)); });
}
int64_t dsa_sparse_decode_workspace(const dsa_sparse_decode_args* args) {
    return dsa::measured([&] { return dsa::sparse_decode_workspace(dsa::read(*args)); });
}
}
