#include "optimized/attention_target/op.h"

#include "optimized/attention_target/read.h"
#include "optimized/attention_target/scratch.h"
#include "optimized/support/ladder.h"

namespace dsa {

std::int64_t attention_target_workspace(const AttentionTarget& call) {
    Arena arena;
    const TargetScratch scratch(call, arena);
    return arena.bytes();
}

namespace {

const Ladder<AttentionTarget> ladder{
    "attention_target",
    {{"a thread a position", attention_target_level_1, nullptr, attention_target_workspace},
     {"tensor cores", attention_target_level_2, attention_target_level_2_declines, attention_target_workspace}}};

AttentionTarget read(const dsa_attention_target_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    AttentionTarget call{};
    call.q = tensors.in<bf16>("q", args.q, {"T", "H", "d"});
    call.kv = tensors.in<bf16>("kv", args.kv, {"S", "d"});
    call.T = tensors.size("T");
    call.S = tensors.size("S");
    call.H = tensors.size("H");
    call.d = tensors.size("d");
    const CandidateIndices candidates = read_candidates(tensors, args.indices);
    call.indices = candidates.indices;
    call.n = candidates.n;
    call.p = tensors.out<float>("p", args.p, {"T", "k or S"});
    call.scale = static_cast<float>(about.softmax_scale(args.scale, 128, 64));
    call.renormalised = about.conventions().target_renormalised;
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_attention_target(const dsa_attention_target_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_attention_target_workspace(const dsa_attention_target_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
