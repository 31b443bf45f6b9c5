#include "optimized/indexer_logits/op.h"

#include "optimized/indexer_logits/read.h"
#include "optimized/support/at_level.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<IndexerLogits> ladder{
    "indexer_logits",
    {{"one thread a key", indexer_logits_level_1},
     {"tensor cores, a key's heads summed in registers", indexer_logits_level_2, indexer_logits_level_2_declines},
     {"warp-specialised wgmma", indexer_logits_level_3, indexer_logits_level_3_declines},
     {"ReLU by a predicate", indexer_logits_level_4, indexer_logits_level_3_declines},
     {"few queries", indexer_logits_level_5, indexer_logits_level_5_declines},
     {"a query a lane", indexer_logits_level_6, indexer_logits_level_6_declines}}};

IndexerLogits read(const dsa_indexer_logits_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    IndexerLogits call{};
    read_scoring(about, tensors, args, call);
    call.logits = tensors.out<float>("logits", args.logits, {"T", "S"});
    return call;
}

// Where nobody chooses: the highest level that takes the call, but for few queries.
int fastest_level(const IndexerLogits& call) { return indexer_logits_level_5_declines(call).empty() ? 5 : 0; }

}  // namespace

void indexer_logits(const IndexerLogits& call) {
    const AtLevel level(chosen_level() == 0 ? fastest_level(call) : chosen_level());
    ladder.run(call);
}

}  // namespace dsa

extern "C" {
int dsa_indexer_logits(const dsa_indexer_logits_args* args) {
    return dsa::answered([&] { dsa::indexer_logits(dsa::read(*args)); });
}
int64_t dsa_indexer_logits_workspace(const dsa_indexer_logits_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
