// Level 1. The kernel of indexer_logits on keys in pages.
#include "optimized/indexer_logits/one_thread_a_key.cuh"
#include "optimized/indexer_logits_paged/pages.cuh"
#include "optimized/support/launch.h"

namespace dsa {

void indexer_logits_paged_level_1(const IndexerLogitsPaged& call) {
    const std::int64_t tiles = blocks_for(call.P * page_tokens, keys_of_a_block);
    launch("logits_one_thread_a_key", logits_one_thread_a_key<PagesOfKeys>,
           {.blocks = call.B * tiles,
            .threads = keys_of_a_block,
            .shared_bytes = sizeof(QueryInShared),
            .stream = call.stream},
           PagesOfKeys{call}, tiles);
}

}  // namespace dsa
