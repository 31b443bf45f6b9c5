// The chain that every level is, in the order of the specification. What a stage needs lies in the workspace; each is
// shown where it has come to be.
#include <algorithm>

#include "optimized/dsa_attention/parts.h"
#include "optimized/indexer_top_k/op.h"
#include "optimized/support/at_level.h"
#include "optimized/support/stages.h"

namespace dsa {
namespace {

namespace block = attention_block;

struct Scratch : block::Scratch {
    // Context: the cache's tokens and then the new ones.
    bf16* kv;                   // [S, d]
    void* k;                    // [S, D_I]
    float* k_scale;             // [S]
    std::int32_t *start, *end;  // [T]
    float* logits;              // [T, S], at level 1
    float* max_logit;           // [T, H]
};

SparsePrefill attention_of(const DsaAttention& call) {
    SparsePrefill attention{};
    attention.result = call.attention;
    attention.T = call.T;
    attention.S = call.S();
    attention.H = call.mla.H;
    attention.d = call.d();
    attention.d_v = call.mla.R_kv;
    attention.k = call.topk;
    attention.stream = call.stream;
    return attention;
}

// The scores that a selection is made from; where they lie, and what they are made of, comes with the scratch.
IndexerLogits scores_of(const DsaAttention& call) {
    IndexerLogits scores{};
    scores.T = call.T;
    scores.S = call.S();
    scores.H_I = static_cast<int>(call.indexer.H_I);
    scores.D_I = static_cast<int>(call.indexer.D_I);
    scores.bf16_scores = call.bf16_scores;
    scores.hopper_sums = call.hopper_sums;
    scores.stream = call.stream;
    return scores;
}
IndexerTopK selection_of(const DsaAttention& call, const IndexerLogits& scores) {
    IndexerTopK selection{};
    selection.scoring = scores;
    selection.k = call.topk;
    selection.nan_as_minus_infinity = call.nan_as_minus_infinity;
    return selection;
}

// Bytes that a selection needs. They depend on which kind of queries it gets, and those have no place yet: any does.
std::int64_t selection_bytes(const DsaAttention& call) {
    static constexpr unsigned char anywhere[2] = {};
    IndexerLogits scores = scores_of(call);
    if (block::quantises(call))
        scores.q = reinterpret_cast<const e4m3*>(anywhere);
    else
        scores.q_bf16 = reinterpret_cast<const bf16*>(anywhere);
    return indexer_top_k_workspace(selection_of(call, scores));
}

Scratch lay_out(Arena& arena, const DsaAttention& call, int level) {
    Scratch s{};
    static_cast<block::Scratch&>(s) = block::lay_out(arena, call);
    s.kv = arena.take<bf16>(call.S() * call.d());
    s.k = arena.take<unsigned char>(call.S() * block::key_bytes(call));
    s.k_scale = arena.take<float>(call.S());
    s.start = arena.take<std::int32_t>(call.T);
    s.end = arena.take<std::int32_t>(call.T);
    if (level == 1) s.logits = arena.take<float>(call.T * call.S());
    s.max_logit = arena.take<float>(call.T * call.mla.H);
    s.of_parts_bytes = std::max({block::projection_bytes(call), sparse_prefill_workspace(attention_of(call)),
                                 level == 1 ? 0 : selection_bytes(call)});
    s.of_parts = arena.take<unsigned char>(s.of_parts_bytes);
    return s;
}

// The new keys go behind the cache's.
void project_indexer(const DsaAttention& call, const Scratch& s) {
    const std::int64_t before = call.C * block::key_bytes(call);
    block::project_indexer(call, s, static_cast<unsigned char*>(s.k) + before, s.k_scale + call.C);
    copy_bytes(call.cache_k, s.k, before, call.stream);
    copy_bytes(call.cache_k_scale, s.k_scale, call.C * static_cast<std::int64_t>(sizeof(float)), call.stream);
}

void extend_context(const DsaAttention& call, const Scratch& s) {
    bf16* kv = s.kv + call.C * call.d();
    cache_latents(call, s.c_kv, s.k_rope, kv);
    show("kv", kv, {call.T, call.d()}, call.stream);
    copy_bytes(call.cache_kv, s.kv, call.C * call.d() * static_cast<std::int64_t>(sizeof(bf16)), call.stream);
}

// The best positions of each query: at level 1 from the scores of all candidates, above without any [T, S] tensor.
void select(const DsaAttention& call, const Scratch& s, int level) {
    causal_candidates(call, s.start, s.end);
    IndexerLogits scores = scores_of(call);
    if (block::quantises(call)) {
        scores.q = static_cast<const e4m3*>(s.indexer_q);
        scores.k = static_cast<const e4m3*>(s.k);
    } else {
        scores.q_bf16 = static_cast<const bf16*>(s.indexer_q);
        scores.k_bf16 = static_cast<const bf16*>(s.k);
    }
    scores.k_scale = s.k_scale;
    scores.weights = s.head_weights;
    scores.start = s.start;
    scores.end = s.end;
    if (level == 1) {
        scores.logits = s.logits;
        indexer_logits(scores);
        show("indexer_logits", s.logits, {call.T, call.S()}, call.stream);
        top_k({s.logits, s.start, s.end, s.indices, call.T, call.S(), call.topk, call.nan_as_minus_infinity,
               call.stream});
    } else {
        IndexerTopK selection = selection_of(call, scores);
        selection.indices = s.indices;
        selection.workspace = s.of_parts;
        selection.workspace_bytes = s.of_parts_bytes;
        indexer_top_k(selection);
    }
    show("topk_indices", s.indices, {call.T, call.topk}, call.stream);
}

void attend(const DsaAttention& call, const Scratch& s) {
    SparsePrefill attention = attention_of(call);
    attention.q = s.q;
    attention.kv = s.kv;
    attention.indices = s.indices;
    attention.result.out = s.out;
    attention.result.lse = s.lse;
    attention.result.max_logit = s.max_logit;
    attention.workspace = s.of_parts;
    attention.workspace_bytes = s.of_parts_bytes;
    sparse_prefill(attention);
    show("attention_out", s.out, {call.T, call.mla.H, call.mla.R_kv}, call.stream);
    show("attention_lse", s.lse, {call.T, call.mla.H}, call.stream);
    show("attention_max_logit", s.max_logit, {call.T, call.mla.H}, call.stream);
}

}  // namespace

std::int64_t dsa_attention_chain_workspace(const DsaAttention& call, int level) {
    const AtLevel parts(level == 1 ? 1 : 0);
    Arena arena;
    lay_out(arena, call, level);
    return arena.bytes();
}

void dsa_attention_chain(const DsaAttention& call, int level) {
    require_workspace(call.workspace, call.workspace_bytes, dsa_attention_chain_workspace(call, level));
    const AtLevel parts(level == 1 ? 1 : 0);
    Arena arena(call.workspace);
    const Scratch s = lay_out(arena, call, level);
    block::project(call, s);
    project_indexer(call, s);
    extend_context(call, s);
    select(call, s, level);
    block::absorb(call, s, level);
    attend(call, s);
    block::project_output(call, s, level);
}

}  // namespace dsa
