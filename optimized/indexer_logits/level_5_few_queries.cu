// Level 5. Level 4 for up to four queries: a product has no columns for queries that are not there, and a consumer
// takes every second tile instead of queries of its own. Bound: the bytes of the keys.
#include "optimized/indexer_logits/ring_levels.cuh"

namespace dsa {
namespace {

template <class S>
struct FewRows : MappedRows<S> {
    static constexpr bool consumers_share_keys = false;
};

// Heads are filled up to 64: the products of few heads are not what takes the time.
template <int row_bytes, int queries>
void start(const IndexerLogits& call) {
    using S = Scores<64, row_bytes, queries>;
    FewRows<S> problem{mapped_rows<S>(call)};
    problem.queries_at_once = queries;
    start_logits_ring<S, Relu::by_predicate>(problem, blocks_for(call.T, queries), call.S, call.stream);
}

template <int row_bytes>
void start(const IndexerLogits& call) {
    if (call.T == 1) return start<row_bytes, 1>(call);
    if (call.T == 2) return start<row_bytes, 2>(call);
    start<row_bytes, 4>(call);
}

}  // namespace

std::string indexer_logits_level_5_declines(const IndexerLogits& call) {
    if (call.T > 4) return sentence("at most 4 queries; T is ", call.T);
    return ring_declines(call);
}

void indexer_logits_level_5(const IndexerLogits& call) {
    if (call.T == 0 || call.S == 0) return;
    if (call.D_I == 64) start<64>(call);
    if (call.D_I == 128) start<128>(call);
}

}  // namespace dsa
