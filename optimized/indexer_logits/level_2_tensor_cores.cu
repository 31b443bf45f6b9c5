// Level 2. Bound: FLOPs of the tensor cores, at f16's rate, since mma.sync has no e4m3 of its own on sm_90. A key is
// brought once for 8 queries.
#include "optimized/indexer_logits/tensor_cores.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int queries_at_once = 8;

template <int row_bytes, class Problem>
void start(const IndexerLogits& call, const Problem& problem) {
    const std::int64_t tiles = blocks_for(call.S, keys_of_a_tile);
    launch("logits_tensor_cores", logits_tensor_cores<row_bytes, Problem>,
           {.blocks = blocks_for(call.T, queries_at_once) * tiles,
            .threads = scoring_threads,
            .shared_bytes = sizeof(ScoringShared<row_bytes>),
            .stream = call.stream},
           problem, tiles);
}

}  // namespace

std::string indexer_logits_level_2_declines(const IndexerLogits& call) {
    if (call.D_I == 64 || call.D_I == 128) return {};
    return sentence("heads must be of 64 or 128 numbers; D_I is ", call.D_I);
}

void indexer_logits_level_2(const IndexerLogits& call) {
    if (call.q != nullptr && call.D_I == 64) start<64>(call, rows_of_e4m3(call, queries_at_once));
    if (call.q != nullptr && call.D_I == 128) start<128>(call, rows_of_e4m3(call, queries_at_once));
    if (call.q == nullptr && call.D_I == 64) start<128>(call, rows_of_bf16(call, queries_at_once));
    if (call.q == nullptr && call.D_I == 128) start<256>(call, rows_of_bf16(call, queries_at_once));
}

}  // namespace dsa
