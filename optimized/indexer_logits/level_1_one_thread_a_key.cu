// Level 1. Bound: FLOPs, 2 H_I D_I a (query, key), on the CUDA cores, each with two conversions from e4m3.
#include "optimized/indexer_logits/one_thread_a_key.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

template <class Problem>
void start(const IndexerLogits& call, const Problem& problem) {
    const std::int64_t tiles = blocks_for(call.S, keys_of_a_block);
    launch("logits_one_thread_a_key", logits_one_thread_a_key<Problem>,
           {.blocks = call.T * tiles,
            .threads = keys_of_a_block,
            .shared_bytes = sizeof(QueryInShared),
            .stream = call.stream},
           problem, tiles);
}

}  // namespace

void indexer_logits_level_1(const IndexerLogits& call) {
    if (call.q != nullptr)
        start(call, rows_of_e4m3(call, 1));
    else
        start(call, rows_of_bf16(call, 1));
}

}  // namespace dsa
