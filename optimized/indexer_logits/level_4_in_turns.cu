// Level 4. Level 3, whose consumers take turns: while the tensor cores multiply for one, the other adds its heads up.
#include "optimized/indexer_logits/ring_levels.cuh"

namespace dsa {

void indexer_logits_level_4(const IndexerLogits& call) { start_ring<true>(call); }

}  // namespace dsa
