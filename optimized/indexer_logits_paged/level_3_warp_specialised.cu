// Level 3. Level 4 of indexer_logits on keys in pages. Bound: bytes; a page is one tensor copy, and a ring of them is
// under way while two warpgroups score every second one.
#include "optimized/indexer_logits/ring_levels.cuh"
#include "optimized/indexer_logits_paged/mapped_pages.cuh"

namespace dsa {
namespace {

// Heads are filled up to 64: the products of few heads are not what takes the time.
template <int row_bytes, int queries>
void start(const IndexerLogitsPaged& call) {
    using S = Scores<64, row_bytes, queries>;
    start_logits_ring<S, Relu::by_predicate>(mapped_pages<S>(call), call.B, call.P * page_tokens, call.stream);
}

template <int row_bytes>
void start(const IndexerLogitsPaged& call) {
    if (call.s_q == 1) return start<row_bytes, 1>(call);
    if (call.s_q == 2) return start<row_bytes, 2>(call);
    start<row_bytes, 4>(call);
}

}  // namespace

std::string indexer_logits_paged_level_3_declines(const IndexerLogitsPaged& call) {
    constexpr std::int64_t most = 0x7fffffff - 64;  // coordinates of a tensor copy
    if (call.s_q > 4) return sentence("at most 4 queries a request; s_q is ", call.s_q);
    if (call.B * call.s_q > most || call.pages > most || call.P > most / page_tokens)
        return "queries, pages and a request's tokens must be fewer than 2^31 - 64";
    if (call.pages == 0) return "there must be a page";
    return wgmma_declines(call.hopper_sums, true, call.H_I, call.D_I);
}

void indexer_logits_paged_level_3(const IndexerLogitsPaged& call) {
    if (call.B == 0 || call.s_q == 0 || call.P == 0) return;
    if (call.D_I == 64) start<64>(call);
    if (call.D_I == 128) start<128>(call);
}

}  // namespace dsa
