#include "optimized/dsa_attention/parts.h"

#include <algorithm>

#include "optimized/linear/linear.h"
#include "optimized/support/stages.h"

namespace dsa::attention_block {
namespace {

template <class Number>
void project_indexer_to(const DsaAttention& call, const Scratch& s, Number* IndexerProject::*q,
                        Number* IndexerProject::*k, void* keys, float* k_scale) {
    IndexerProject indexer = call.indexer;
    indexer.c_q = s.c_q;
    indexer.*q = static_cast<Number*>(s.indexer_q);
    indexer.*k = static_cast<Number*>(keys);
    indexer.k_scale = k_scale;
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

}  // namespace

Scratch lay_out(Arena& arena, const DsaAttention& call) {
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
    s.indices = arena.take<std::int32_t>(T * call.topk);
    s.q = arena.take<bf16>(T * H * call.d());
    s.out = arena.take<bf16>(T * H * call.mla.R_kv);
    s.lse = arena.take<float>(T * H);
    s.heads = arena.take<bf16>(T * H * call.d_v);
    return s;
}

std::int64_t projection_bytes(const DsaAttention& call) {
    return std::max(mla_project_workspace(call.mla), indexer_project_workspace(call.indexer));
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

void project_indexer(const DsaAttention& call, const Scratch& s, void* k, float* k_scale) {
    if (quantises(call))
        project_indexer_to<e4m3>(call, s, &IndexerProject::q, &IndexerProject::k, k, k_scale);
    else
        project_indexer_to<bf16>(call, s, &IndexerProject::q_bf16, &IndexerProject::k_bf16, k, k_scale);
}

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

}  // namespace dsa::attention_block
