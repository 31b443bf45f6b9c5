// Level 6. Level 4 with its columns in another order, so that a thread holds all heads of a query: nothing is left to
// exchange between lanes. Bound: the tensor cores and the card's power; each instruction beside the products costs
// both.
#include "optimized/indexer_logits/ring_levels.cuh"

namespace dsa {

std::string indexer_logits_level_6_declines(const IndexerLogits& call) {
    if (call.H_I % 2 != 0) return sentence("heads come in pairs; H_I is ", call.H_I);
    return ring_declines(call);
}

void indexer_logits_level_6(const IndexerLogits& call) { start_ring<Relu::by_predicate, Columns::by_lane>(call); }

}  // namespace dsa
