// The chain that every level is, in the order of the specification. What a stage needs lies in the workspace; each is
// shown where it has come to be.
#include <algorithm>

#include "optimized/dsa_attention/op.h"
#include "optimized/indexer_top_k/op.h"
#include "optimized/linear/linear.h"
#include "optimized/support/arena.h"
#include "optimized/support/at_level.h"
#include "optimized/support/stages.h"

namespace dsa {
namespace {

struct Scratch {
    bf16 *c_q, *q_nope, *q_rope, *c_kv, *k_rope;
    void* indexer_q;      // [T, H_I, D_I]
    float* q_scale;       // [T, H_I]
    float* head_weights;  // [T, H_I]
    // Context: the cache's tokens and then the new ones.
    bf16* kv;                   // [S, d]
    void* k;                    // [S, D_I]
    float* k_scale;             // [S]
    std::int32_t *start, *end;  // [T]
    float* logits;              // [T, S], at level 1
    std::int32_t* indices;      // [T, topk]
    bf16* q;                    // [T, H, d]
    bf16* out;                  // [T, H, R_kv]
    float *lse, *max_logit;     // [T, H]
    bf16* heads;                // [T, H, d_v]
    void* of_parts;             // workspace of one part after the other
    std::int64_t of_parts_bytes;
};

bool quantises(const DsaAttention& call) { return call.indexer.quantizer != Quantizer::none; }
std::int64_t key_bytes(const DsaAttention& call) { return call.indexer.D_I * (quantises(call) ? 1 : 2); }

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
    if (quantises(call))
        scores.q = reinterpret_cast<const e4m3*>(anywhere);
    else
        scores.q_bf16 = reinterpret_cast<const bf16*>(anywhere);
    return indexer_top_k_workspace(selection_of(call, scores));
}

Scratch lay_out(Arena& arena, const DsaAttention& call, int level) {
    const std::int64_t T = call.T, H = call.mla.H;
    Scratch s{};
    s.c_q = arena.take<bf16>(T * call.mla.R_q);
    s.q_nope = arena.take<bf16>(T * H * call.mla.d_nope);
    s.q_rope = arena.take<bf16>(T * H * call.mla.d_rope);
    s.c_kv = arena.take<bf16>(T * call.mla.R_kv);
    s.k_rope = arena.take<bf16>(T * call.mla.d_rope);
    s.indexer_q = arena.take<unsigned char>(T * call.indexer.H_I * key_bytes(call));
    s.q_scale = arena.take<float>(T * call.indexer.H_I);
    s.head_weights = arena.take<float>(T * call.indexer.H_I);
    s.kv = arena.take<bf16>(call.S() * call.d());
    s.k = arena.take<unsigned char>(call.S() * key_bytes(call));
    s.k_scale = arena.take<float>(call.S());
    s.start = arena.take<std::int32_t>(T);
    s.end = arena.take<std::int32_t>(T);
    if (level == 1) s.logits = arena.take<float>(T * call.S());
    s.indices = arena.take<std::int32_t>(T * call.topk);
    s.q = arena.take<bf16>(T * H * call.d());
    s.out = arena.take<bf16>(T * H * call.mla.R_kv);
    s.lse = arena.take<float>(T * H);
    s.max_logit = arena.take<float>(T * H);
    s.heads = arena.take<bf16>(T * H * call.d_v);
    s.of_parts_bytes =
        std::max({mla_project_workspace(call.mla), indexer_project_workspace(call.indexer),
                  sparse_prefill_workspace(attention_of(call)), level == 1 ? 0 : selection_bytes(call)});
    s.of_parts = arena.take<unsigned char>(s.of_parts_bytes);
    return s;
}

void project(const DsaAttention& call, const Scratch& s) {
    MlaProject mla = call.mla;
    mla.c_q = s.c_q;
    mla.q_nope = s.q_nope;
    mla.q_rope = s.q_rope;
    mla.c_kv = s.c_kv;
    mla.k_rope = s.k_rope;
    mla.workspace = s.of_parts;
    mla.workspace_bytes = s.of_parts_bytes;
    mla_project(mla);
    show("c_q", s.c_q, {call.T, mla.R_q}, call.stream);
    show("q_nope", s.q_nope, {call.T, mla.H, mla.d_nope}, call.stream);
    show("q_rope", s.q_rope, {call.T, mla.H, mla.d_rope}, call.stream);
    show("c_kv", s.c_kv, {call.T, mla.R_kv}, call.stream);
    show("k_rope", s.k_rope, {call.T, mla.d_rope}, call.stream);
}

// Queries and keys of the indexer; the new keys go behind the cache's.
template <class Number>
void project_indexer(const DsaAttention& call, const Scratch& s, Number* IndexerProject::*q,
                     Number* IndexerProject::*k) {
    IndexerProject indexer = call.indexer;
    const std::int64_t before = call.C;
    auto* keys = static_cast<Number*>(s.k);
    indexer.c_q = s.c_q;
    indexer.*q = static_cast<Number*>(s.indexer_q);
    indexer.*k = keys + before * indexer.D_I;
    indexer.k_scale = s.k_scale + before;
    indexer.weights = s.head_weights;
    indexer.q_scale = somebody_listens() ? s.q_scale : nullptr;
    indexer.workspace = s.of_parts;
    indexer.workspace_bytes = s.of_parts_bytes;
    indexer_project(indexer);
    show("indexer_q", indexer.*q, {call.T, indexer.H_I, indexer.D_I}, call.stream);
    show("indexer_q_scale", s.q_scale, {call.T, indexer.H_I}, call.stream);
    show("indexer_k", indexer.*k, {call.T, indexer.D_I}, call.stream);
    show("indexer_k_scale", indexer.k_scale, {call.T}, call.stream);
    show("indexer_weights", indexer.weights, {call.T, indexer.H_I}, call.stream);
    copy_bytes(call.cache_k, keys, before * key_bytes(call), call.stream);
    copy_bytes(call.cache_k_scale, s.k_scale, before * static_cast<std::int64_t>(sizeof(float)), call.stream);
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
    if (quantises(call)) {
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

// Of linear, which is no op with a ladder of its own.
int products_level(int level) { return level == 1 ? 1 : 3; }

// One product a head: y[t, h] = x[t, h] w[h], rows of x, K numbers each, side by side over the heads.
Linear of_heads(const DsaAttention& call, const bf16* x, std::int64_t K, const HeadWeight& w, bf16* y,
                std::int64_t N) {
    Linear product = packed_linear(x, w.as_bf16, y, call.T, K, N, call.stream);
    product.w_float32 = w.as_float32;
    product.heads = call.mla.H;
    product.x_row = call.mla.H * K;
    product.x_head = K;
    return product;
}

// MQA mode: the key's up-projection is absorbed into the query, q = [q_nope W_uk^T, q_rope].
void absorb(const DsaAttention& call, const Scratch& s, int level) {
    Linear product = of_heads(call, s.q_nope, call.mla.d_nope, call.W_uk, s.q, call.mla.R_kv);
    product.w_head = call.mla.d_nope;
    product.w_k = 1;
    product.w_n = call.mla.H * call.mla.d_nope;
    product.y_row = call.mla.H * call.d();
    product.y_head = call.d();
    linear(product, products_level(level));
    append_rope(call, s.q_rope, s.q);
    show("q", s.q, {call.T, call.mla.H, call.d()}, call.stream);
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

// Each head's latent mean up by W_uv, the heads side by side, times W_o.
void project_output(const DsaAttention& call, const Scratch& s, int level) {
    const std::int64_t width = call.mla.H * call.d_v;
    Linear values = of_heads(call, s.out, call.mla.R_kv, call.W_uv, s.heads, call.d_v);
    values.w_head = call.d_v;
    values.w_k = width;
    values.y_row = width;
    values.y_head = call.d_v;
    linear(values, products_level(level));
    Linear output = packed_linear(s.heads, call.W_o.as_bf16, call.y, call.T, width, call.mla.D, call.stream);
    output.w_float32 = call.W_o.as_float32;
    linear(output, products_level(level));
    show("attention_y", call.y, {call.T, call.mla.D}, call.stream);
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
    project(call, s);
    if (quantises(call))
        project_indexer<e4m3>(call, s, &IndexerProject::q, &IndexerProject::k);
    else
        project_indexer<bf16>(call, s, &IndexerProject::q_bf16, &IndexerProject::k_bf16);
    extend_context(call, s);
    select(call, s, level);
    absorb(call, s, level);
    attend(call, s);
    project_output(call, s, level);
}

}  // namespace dsa
