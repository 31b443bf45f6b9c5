// Level 2. The kernel of indexer_logits on keys in pages: a tile is two pages, and a request's s_q queries pass over
// it.
#include "optimized/indexer_logits/tensor_cores.cuh"
#include "optimized/indexer_logits_paged/pages.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

template <int row_bytes>
void start(const IndexerLogitsPaged& call) {
    const std::int64_t tiles = blocks_for(call.P * page_tokens, keys_of_a_tile);
    launch("logits_tensor_cores", logits_tensor_cores<row_bytes, PagesOfKeys>,
           {.blocks = call.B * tiles,
            .threads = scoring_threads,
            .shared_bytes = sizeof(ScoringShared<row_bytes>),
            .stream = call.stream},
           PagesOfKeys{call}, tiles);
}

}  // namespace

std::string indexer_logits_paged_level_2_declines(const IndexerLogitsPaged& call) {
    if (call.D_I == 64 || call.D_I == 128) return {};
    return sentence("heads must be of 64 or 128 numbers; D_I is ", call.D_I);
}

void indexer_logits_paged_level_2(const IndexerLogitsPaged& call) {
    if (call.D_I == 64) start<64>(call);
    if (call.D_I == 128) start<128>(call);
}

}  // namespace dsa
