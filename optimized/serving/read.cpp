#include "optimized/dsa_attention/read.h"

#include <algorithm>

#include "optimized/serving/serving.h"
#include "optimized/support/ladder.h"
#include "optimized/top_k/read.h"
#include "optimized/transformer_block/read.h"

namespace dsa {
namespace {

// The tables: they say how many rows the tokens' tensors must have.
template <class Args>
void read_tables(Arguments& tensors, const Args& args, ServingStep& call) {
    call.block_table = tensors.in<std::int32_t>("block_table", args.block_table, {"B", "P"});
    call.context_lens = tensors.in<std::int32_t>("context_lens", args.context_lens, {"B"});
    call.B = tensors.size("B");
    call.P = tensors.size("P");
}

// Attention's weights and both pools. `tokens` is the tensor whose rows are the new tokens: T and D are bound by it.
template <class Args>
void read_attention_over_pages(const Case& about, Arguments& tensors, const Args& args, const char* tokens,
                               const bf16* x, ServingStep& call) {
    read_attention_block(about, tensors, args, x, call.block);
    const DsaAttention& block = call.block;
    require(call.B > 0 ? block.T % call.B == 0 : block.T == 0, tokens, " must have s_q rows for each of the ", call.B,
            " requests of block_table; it has ", block.T);
    call.s_q = call.B > 0 ? block.T / call.B : 0;
    require(block.indexer.quantizer != Quantizer::none,
            "pages of keys hold e4m3: the convention quantizer must not be none");
    constexpr std::int64_t numbers = 128, most = 1 << 16;
    require(block.mla.R_kv <= numbers || block.mla.R_kv % numbers == 0, "pages hold a scale for ", numbers,
            " numbers of a latent: R_kv must be a multiple of it, or less; it is ", block.mla.R_kv);
    require(block.d() <= most, "a token may have at most ", most, " numbers; it has ", block.d());
    const std::int64_t blocks = block.mla.R_kv / std::min(block.mla.R_kv, numbers);
    tensors.bind("token_bytes", block.mla.R_kv + 4 * blocks + 2 * block.mla.d_rope);
    tensors.bind("page_bytes", page_of_tokens * (block.indexer.D_I + 4));
    call.kv_pages = tensors.out<std::uint8_t>("kv_pages", args.kv_pages, {"pages", "64", "token_bytes"});
    call.k_pages = tensors.out<std::uint8_t>("k_pages", args.k_pages, {"pages", "page_bytes"});
    call.pages = tensors.size("pages");
    require_positions(page_of_tokens * call.P);
    require_positions(page_of_tokens * call.pages);  // of slots
    call.stream = args.stream;
}

ServingStep read(const dsa_serving_step_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    ServingStep call{};
    read_tables(tensors, args, call);
    const bf16* x = tensors.in<bf16>("x", args.x, {"T", "D"});
    read_attention_over_pages(about, tensors, args, "x", x, call);
    call.block.y = tensors.out<bf16>("y", args.y, {"T", "D"});
    call.workspace = args.workspace;
    call.workspace_bytes = args.workspace_bytes;
    return call;
}

ServingBlockStep read(const dsa_serving_block_step_args& args) {
    const Case about(args.case_json);
    Arguments tensors;
    ServingBlockStep call{};
    read_tables(tensors, args, call.attention);
    read_hidden(tensors, args, call);
    read_attention_over_pages(about, tensors, args, "hidden", nullptr, call.attention);
    read_net(about, tensors, args, call);
    return call;
}

}  // namespace
}  // namespace dsa

extern "C" {
int dsa_serving_step(const dsa_serving_step_args* args) {
    return dsa::answered([&] { dsa::serving_step(dsa::read(*args)); });
}
int64_t dsa_serving_step_workspace(const dsa_serving_step_args* args) {
    return dsa::measured([&] { return dsa::serving_step_workspace(dsa::read(*args)); });
}
int dsa_serving_block_step(const dsa_serving_block_step_args* args) {
    return dsa::answered([&] { dsa::serving_block_step(dsa::read(*args)); });
}
int64_t dsa_serving_block_step_workspace(const dsa_serving_block_step_args* args) {
    return dsa::measured([&] { return dsa::serving_block_step_workspace(dsa::read(*args)); });
}
}
