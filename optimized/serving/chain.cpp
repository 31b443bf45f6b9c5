// The chain, in the order of the specification: project, append, score and select over pages, attend over slots,
// project back. Stages are shown under dsa_attention's names; kv and attention_max_logit have come to be nowhere.
#include <algorithm>

#include "optimized/dsa_attention/parts.h"
#include "optimized/indexer_logits_paged/op.h"
#include "optimized/serving/serving.h"
#include "optimized/sparse_decode/op.h"
#include "optimized/support/at_level.h"
#include "optimized/support/stages.h"

namespace dsa {
namespace {

namespace block = attention_block;

struct Scratch : block::Scratch {
    e4m3* k;                    // [B s_q, D_I]
    float* k_scale;             // [B s_q]
    std::int32_t *start, *end;  // [B s_q]
    float* logits;              // [B s_q, 64 P]
    std::int32_t* slots;        // [B s_q, topk]
};

SparseDecode attention_of(const ServingStep& call) {
    SparseDecode attention{};
    attention.kv_pages = call.kv_pages;
    attention.result = call.block.attention;
    attention.rows = call.block.T;
    attention.slots = page_of_tokens * call.pages;
    attention.H = call.block.mla.H;
    attention.d = call.block.d();
    attention.k = call.block.topk;
    attention.R_kv = static_cast<int>(call.block.mla.R_kv);
    attention.stream = call.stream;
    return attention;
}

Scratch lay_out(Arena& arena, const ServingStep& call) {
    const std::int64_t T = call.block.T;
    Scratch s{};
    static_cast<block::Scratch&>(s) = block::lay_out(arena, call.block);
    s.k = arena.take<e4m3>(T * call.block.indexer.D_I);
    s.k_scale = arena.take<float>(T);
    s.start = arena.take<std::int32_t>(T);
    s.end = arena.take<std::int32_t>(T);
    s.logits = arena.take<float>(T * page_of_tokens * call.P);
    s.slots = arena.take<std::int32_t>(T * call.block.topk);
    s.of_parts_bytes = std::max(block::projection_bytes(call.block), sparse_decode_workspace(attention_of(call)));
    s.of_parts = arena.take<unsigned char>(s.of_parts_bytes);
    return s;
}

void select(const ServingStep& call, const Scratch& s) {
    const std::int64_t S = page_of_tokens * call.P;
    const IndexerProject& indexer = call.block.indexer;
    indexer_logits_paged({static_cast<const e4m3*>(s.indexer_q), call.k_pages, call.block_table, call.context_lens,
                          s.head_weights, s.logits, call.B, call.s_q, call.pages, call.P,
                          static_cast<int>(indexer.H_I), static_cast<int>(indexer.D_I), call.block.bf16_scores,
                          call.block.hopper_sums, call.stream});
    show("indexer_logits", s.logits, {call.block.T, S}, call.stream);
    top_k({s.logits, s.start, s.end, s.indices, call.block.T, S, call.block.topk, call.block.nan_as_minus_infinity,
           call.stream});
    show("topk_indices", s.indices, {call.block.T, call.block.topk}, call.stream);
    slots_of_positions(call, s.indices, s.slots);
}

void attend(const ServingStep& call, const Scratch& s) {
    SparseDecode attention = attention_of(call);
    attention.q = s.q;
    attention.indices = s.slots;
    attention.result.out = s.out;
    attention.result.lse = s.lse;
    attention.workspace = s.of_parts;
    attention.workspace_bytes = s.of_parts_bytes;
    sparse_decode(attention);
    show("attention_out", s.out, {attention.rows, attention.H, call.block.mla.R_kv}, call.stream);
    show("attention_lse", s.lse, {attention.rows, attention.H}, call.stream);
}

}  // namespace

int level_of_parts(const char* step) {
    const int level = chosen_level();
    if (level < 0 || level > 2)
        refuse(Status::not_implemented, step, " has the levels 1 and 2; there is no level ", level);
    return level == 1 ? 1 : 0;
}

std::int64_t serving_step_workspace(const ServingStep& call) {
    const AtLevel parts(level_of_parts("serving_step"));
    Arena arena;
    lay_out(arena, call);
    return arena.bytes();
}

void serving_step(const ServingStep& call) {
    require_workspace(call.workspace, call.workspace_bytes, serving_step_workspace(call));
    const int level = level_of_parts("serving_step");
    const AtLevel parts(level);
    Arena arena(call.workspace);
    const Scratch s = lay_out(arena, call);
    block::project(call.block, s);
    block::project_indexer(call.block, s, s.k, s.k_scale);
    append_to_pages(call, {s.c_kv, s.k_rope, s.k, s.k_scale}, s.start, s.end);
    select(call, s);
    block::absorb(call.block, s, level);
    attend(call, s);
    block::project_output(call.block, s, level);
}

}  // namespace dsa
