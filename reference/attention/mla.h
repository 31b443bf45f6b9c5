// How can 128 heads share one small cache? Multi-head latent attention keeps, for each token, one latent
// vector c_kv and one rotated k_rope; the heads' keys and values are linear images of them.
// DeepSeek-V3 report (arXiv 2412.19437), section 2.1.1; spec section 2.
#pragma once

#include "reference/attention/linear.h"
#include "reference/attention/norm.h"
#include "reference/attention/rope.h"
#include "reference/numerics/ordered.h"
#include "reference/trace.h"

namespace dsa {

struct MlaWeights {
    Weight W_dq;           // [D, R_q]
    Array<float> q_norm;   // [R_q]
    Weight W_uq;           // [R_q, H (d_nope + d_rope)]
    Weight W_dkv;          // [D, R_kv + d_rope]
    Array<float> kv_norm;  // [R_kv]
    Weight W_uk;           // [R_kv, H d_nope]
    Weight W_uv;           // [R_kv, H d_v]
    Weight W_o;            // [H d_v, D]
    Index heads = 0;       // H

    Index R_kv() const { return kv_norm.size(); }
    Index d_rope() const { return W_dkv.cols() - R_kv(); }
    Index d_nope() const { return W_uq.cols() / heads - d_rope(); }
    Index d_v() const { return W_uv.cols() / heads; }
};

template <class P>
struct MlaProjection {
    Tensor<P> c_q;     // [T, R_q]
    Tensor<P> q_nope;  // [T, H, d_nope]
    Tensor<P> q_rope;  // [T, H, d_rope], rotated
    Tensor<P> c_kv;    // [T, R_kv]
    Tensor<P> k_rope;  // [T, d_rope], rotated, one for all heads
};

// Columns first ... first + count - 1 of the last axis. [..., N] -> [..., count]
template <class P>
Tensor<P> last_axis(const Tensor<P>& x, Index first, Index count) {
    Shape shape = x.shape();
    shape.back() = count;
    Tensor<P> part(shape);
    part.matrix() = x.matrix().middleCols(first, count);
    return part;
}

// [..., N], [..., M] -> [..., N + M]
template <class P>
Tensor<P> joined_last_axis(const Tensor<P>& a, const Tensor<P>& b) {
    Shape shape = a.shape();
    shape.back() = a.cols() + b.cols();
    Tensor<P> both(shape);
    both.matrix().leftCols(a.cols()) = a.matrix();
    both.matrix().rightCols(b.cols()) = b.matrix();
    return both;
}

// x: [T, D]  positions: [T]
template <class P>
MlaProjection<P> mla_project(const Tensor<P>& x, const Array<std::int32_t>& positions, const MlaWeights& w,
                             const RopeParameters& rope_parameters, const Conventions& conventions,
                             double eps = norm_epsilon) {
    const Index T = x.dim(0);
    const Index H = w.heads;
    const Index d_nope = w.d_nope();
    const Index d_rope = w.d_rope();
    const Rope<P> turn(rope_parameters, d_rope, positions);
    MlaProjection<P> out;

    out.c_q = rms_norm(linear(x, w.W_dq, conventions), w.q_norm, eps);
    Tensor<P> q = linear(out.c_q, w.W_uq, conventions);
    q.reshape({T, H, d_nope + d_rope});
    out.q_nope = last_axis(q, 0, d_nope);
    out.q_rope = last_axis(q, d_nope, d_rope);

    const Tensor<P> kv = linear(x, w.W_dkv, conventions);
    out.c_kv = rms_norm(last_axis(kv, 0, w.R_kv()), w.kv_norm, eps);
    out.k_rope = last_axis(kv, w.R_kv(), d_rope);

    for (Index t = 0; t < T; ++t) {
        for (Index h = 0; h < H; ++h)
            turn.rotate(out.q_rope.row(t, h), t, RopeLayout::interleaved, conventions.mla_rope_output);
        turn.rotate(out.k_rope.row(t), t, RopeLayout::interleaved, conventions.mla_rope_output);
    }
    return out;
}

// MQA mode: the key's up-projection is absorbed into the query, q_c = q_nope W_uk^T, so that every head
// attends to the latent itself. q = [q_c, q_rope]: [T, H, R_kv + d_rope]
template <class P>
Tensor<P> absorbed_query(const MlaProjection<P>& m, const MlaWeights& w) {
    const Index d_nope = w.d_nope();
    Tensor<P> q({m.q_nope.dim(0), w.heads, w.R_kv() + w.d_rope()});
    for (Index h = 0; h < w.heads; ++h) {
        const Weight W_uk_of_head = w.W_uk.columns(h * d_nope, d_nope);  // [R_kv, d_nope]
        Tensor<P> q_nope({q.dim(0), d_nope});
        for (Index t = 0; t < q.dim(0); ++t) q_nope.row(t) = m.q_nope.row(t, h);
        const Tensor<P> q_c = stored_as_bf16(matmul(q_nope, W_uk_of_head.transposed()));
        for (Index t = 0; t < q.dim(0); ++t) q.row(t, h) << q_c.row(t), m.q_rope.row(t, h);
    }
    return q;
}

// What the cache keeps of a token: kv = [c_kv, k_rope], [T, R_kv + d_rope]. With `kv_latent_fp8` the latent
// goes through e4m3, one scale for 128 numbers, as it does in an FP8 cache.
template <class P>
Tensor<P> cached_latent(const MlaProjection<P>& m, const Conventions& conventions) {
    if (!conventions.kv_latent_fp8) return joined_last_axis(m.c_kv, m.k_rope);
    const auto quantized =
        quantize(m.c_kv, conventions.kv_quantizer, conventions.scale_format, block_for(m.c_kv.cols()));
    return joined_last_axis(stored_as_bf16(dequantized(quantized)), m.k_rope);
}

// MHA mode: the heads' own keys and values, k = [c_kv W_uk, k_rope] and v = c_kv W_uv.
template <class P>
struct HeadKeysValues {
    Tensor<P> k;  // [S, H, d_nope + d_rope]
    Tensor<P> v;  // [S, H, d_v]
};

// kv: [S, R_kv + d_rope]
template <class P>
HeadKeysValues<P> expanded_keys_values(const Tensor<P>& kv, const MlaWeights& w) {
    const Index S = kv.dim(0);
    const Tensor<P> c_kv = last_axis(kv, 0, w.R_kv());
    const Tensor<P> k_rope = last_axis(kv, w.R_kv(), w.d_rope());
    Tensor<P> k_nope = stored_as_bf16(matmul(c_kv, w.W_uk));
    k_nope.reshape({S, w.heads, w.d_nope()});
    HeadKeysValues<P> out{Tensor<P>({S, w.heads, w.d_nope() + w.d_rope()}), stored_as_bf16(matmul(c_kv, w.W_uv))};
    out.v.reshape({S, w.heads, w.d_v()});
    for (Index s = 0; s < S; ++s)
        for (Index h = 0; h < w.heads; ++h) out.k.row(s, h) << k_nope.row(s, h), k_rope.row(s);
    return out;
}

// MQA mode's way back: each head's latent output times its W_uv, heads concatenated, times W_o.
// out: [T, H, R_kv]  -> y: [T, D]
template <class P>
Tensor<P> output_projection(const Tensor<P>& out, const MlaWeights& w, const Conventions& conventions) {
    const Index T = out.dim(0);
    const Index d_v = w.d_v();
    Tensor<P> heads({T, w.heads * d_v});
    for (Index h = 0; h < w.heads; ++h) {
        Tensor<P> latent({T, w.R_kv()});
        for (Index t = 0; t < T; ++t) latent.row(t) = out.row(t, h);
        heads.matrix().middleCols(h * d_v, d_v) =
            stored_as_bf16(matmul(latent, w.W_uv.columns(h * d_v, d_v))).matrix();
    }
    return linear(heads, w.W_o, conventions);
}

}  // namespace dsa
