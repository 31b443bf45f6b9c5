// Level 3. Bound: FLOPs of the tensor cores at e4m3's own rate, which only wgmma has: 8192 a clock and SM, with
// Hopper's sums.
#include "optimized/indexer_logits/ring_levels.cuh"

namespace dsa {

std::string indexer_logits_level_3_declines(const IndexerLogits& call) { return ring_declines(call); }
void indexer_logits_level_3(const IndexerLogits& call) { start_ring<Relu::by_absolute, Columns::by_query>(call); }

}  // namespace dsa
