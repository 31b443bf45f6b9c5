// Level 4. Level 3 with another ReLU: a dot that is not positive is not added. Bound: while the tensor cores write
// their sums into registers, other instructions are in their way; a comparison needs no register to write to.
#include "optimized/indexer_logits/ring_levels.cuh"

namespace dsa {

void indexer_logits_level_4(const IndexerLogits& call) { start_ring<Relu::by_predicate, Columns::by_query>(call); }

}  // namespace dsa
