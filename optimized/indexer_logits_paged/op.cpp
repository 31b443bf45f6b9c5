#include "optimized/indexer_logits_paged/op.h"

#include "optimized/indexer_logits/read.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

const Ladder<IndexerLogitsPaged> ladder{
    "indexer_logits_paged",
    {{"one thread a key", indexer_logits_paged_level_1},
     {"tensor cores, a request's queries share the keys", indexer_logits_paged_level_2,
      indexer_logits_paged_level_2_declines},
     {"warp-specialised wgmma", indexer_logits_paged_level_3, indexer_logits_paged_level_3_declines}}};

IndexerLogitsPaged read(const dsa_indexer_logits_paged_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    IndexerLogitsPaged call{};
    call.q = tensors.in<e4m3>("q", args.q, {"B", "s_q", "H_I", "D_I"});
    call.k_pages = tensors.in<std::uint8_t>("k_pages", args.k_pages, {"pages", "page_bytes"});
    call.block_table = tensors.in<std::int32_t>("block_table", args.block_table, {"B", "P"});
    call.context_lens = tensors.in<std::int32_t>("context_lens", args.context_lens, {"B"});
    call.B = tensors.size("B");
    call.s_q = tensors.size("s_q");
    call.pages = tensors.size("pages");
    call.P = tensors.size("P");
    require_heads(tensors.size("H_I"), tensors.size("D_I"));
    call.H_I = static_cast<int>(tensors.size("H_I"));
    call.D_I = static_cast<int>(tensors.size("D_I"));
    constexpr std::int64_t tokens = 64;
    require(tensors.size("page_bytes") == tokens * (call.D_I + 4),
            "a page of k_pages must have 64 (D_I + 4) = ", tokens * (call.D_I + 4),
            " bytes, 64 keys and then their 64 scales; it has ", tensors.size("page_bytes"));
    tensors.bind("B*s_q", call.B * call.s_q);
    tensors.bind("P*64", tokens * call.P);
    call.weights = tensors.in<float>("weights", args.weights, {"B*s_q", "H_I"});
    call.logits = tensors.out<float>("logits", args.logits, {"B*s_q", "P*64"});
    call.bf16_scores = about.conventions().indexer_scores_bf16;
    call.hopper_sums = about.conventions().hopper_fp8_sums;
    call.stream = args.stream;
    return call;
}

}  // namespace

void indexer_logits_paged(const IndexerLogitsPaged& call) { ladder.run(call); }

}  // namespace dsa

extern "C" {
int dsa_indexer_logits_paged(const dsa_indexer_logits_paged_args* args) {
    return dsa::answered([&] { dsa::indexer_logits_paged(dsa::read(*args)); });
}
int64_t dsa_indexer_logits_paged_workspace(const dsa_indexer_logits_paged_args* args) {
    return dsa::measured([&] { return dsa::ladder.workspace(dsa::read(*args)); });
}
}
