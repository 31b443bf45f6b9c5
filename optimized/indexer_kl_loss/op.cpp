#include "optimized/indexer_kl_loss/op.h"

#include "optimized/attention_target/read.h"
#include "optimized/indexer_kl_loss/scratch.h"
#include "optimized/support/ladder.h"

namespace dsa {

std::int64_t indexer_kl_loss_workspace(const IndexerKlLoss& call) {
    Arena arena;
    const KlScratch scratch(call, arena);
    return arena.bytes();
}

namespace {

const Ladder<IndexerKlLoss> ladder{"indexer_kl_loss",
                                   {{"a thread a score", indexer_kl_loss_level_1, nullptr, indexer_kl_loss_workspace},
                                    {"tiles in shared memory", indexer_kl_loss_level_2,
                                     indexer_kl_loss_level_2_declines, indexer_kl_loss_workspace}}};

IndexerKlLoss read(const dsa_indexer_kl_loss_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    IndexerKlLoss call{};
    call.q = tensors.in<float>("q", args.q, {"T", "H_I", "D_I"});
    call.k = tensors.in<float>("k", args.k, {"S", "D_I"});
    call.weights = tensors.in<float>("weights", args.weights, {"T", "H_I"});
    call.T = tensors.size("T");
    call.S = tensors.size("S");
    call.H_I = tensors.size("H_I");
    call.D_I = tensors.size("D_I");
    const CandidateIndices candidates = read_candidates(tensors, args.indices);
    call.indices = candidates.indices;
    call.n = candidates.n;
    call.p = tensors.maybe<float>("p", args.p, {"T", "k or S"});
    if (call.p == nullptr) {
        call.target.q = tensors.in<bf16>("q_mla", args.q_mla, {"T", "H", "d"});
        call.target.kv = tensors.in<bf16>("kv", args.kv, {"S", "d"});
        call.target.indices = call.indices;
        call.target.T = call.T;
        call.target.S = call.S;
        call.target.H = tensors.size("H");
        call.target.d = tensors.size("d");
        call.target.n = call.n;
        call.target.scale = static_cast<float>(about.softmax_scale(args.scale, 128, 64));
        call.target.renormalised = about.conventions().target_renormalised;
        call.target.stream = args.stream;
    }
    call.loss = tensors.out<float>("loss", args.loss, {"1"});
    call.dq = tensors.out<float>("dq", args.dq, {"T", "H_I", "D_I"});
    call.dk = tensors.out<float>("dk", args.dk, {"S", "D_I"});
    call.dweights = tensors.out<float>("dweights", args.dweights, {"T", "H_I"});
    call.coefficient = static_cast<float>(about.conventions().kl_coefficient);
    call.mean = about.conventions().kl_mean;
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    call.stream = args.stream;
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_indexer_kl_loss(const dsa_indexer_kl_loss_args* args) {
    return dsa::answered([&] { dsa::ladder.run(dsa::read(*args)); });
}
int64_t dsa_indexer_kl_loss_workspace(const dsa_indexer_kl_loss_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
