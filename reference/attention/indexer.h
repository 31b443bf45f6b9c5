// Which tokens are worth attending to? The lightning indexer gives every (query, position) pair a score,
// with few heads, one shared key and 8-bit numbers. DeepSeek-V3.2-Exp report, section 2; spec section 3.
//
// Queries come from MLA's compressed c_q; keys come from the block's normalised input x, not from c_kv.
#pragma once

#include <limits>

#include "reference/attention/hadamard.h"
#include "reference/attention/linear.h"
#include "reference/attention/norm.h"
#include "reference/attention/rope.h"
#include "reference/numerics/ordered.h"
#include "reference/numerics/tensor_cores.h"

namespace dsa {

struct IndexerWeights {
    Weight W_qI;          // [R_q, H_I D_I]
    Weight W_kI;          // [D, D_I]
    Array<float> k_norm;  // [D_I], LayerNorm's weight
    Array<float> k_bias;  // [D_I]
    Weight W_w;           // [D, H_I]

    Index D_I() const { return k_norm.size(); }
    Index H_I() const { return W_w.cols(); }
};

// What is projected before anything is quantised: also what training uses (spec section 7).
template <class P>
struct IndexerProjection {
    Tensor<P> q;        // [T, H_I, D_I]
    Tensor<P> k;        // [T, D_I], one key for all heads
    Tensor<P> weights;  // [T, H_I] = (x W_w) * H_I^-0.5 * D_I^-0.5
};

template <class P>
struct IndexerInputs {
    Tensor<P> q;        // [T, H_I, D_I] e4m3
    Tensor<P> k;        // [T, D_I] e4m3
    Tensor<P> k_scale;  // [T]
    Tensor<P> weights;  // [T, H_I], the queries' scales folded in
    Tensor<P> q_scale;  // [T, H_I], those scales; logits need them no more
};

// x: [T, D], the normalised input  c_q: [T, R_q]  positions: [T]  d_rope: the rotated dims, which come first
template <class P>
IndexerProjection<P> indexer_projection(const Tensor<P>& x, const Tensor<P>& c_q,
                                        const Array<std::int32_t>& positions, const IndexerWeights& w, Index d_rope,
                                        const RopeParameters& rope_parameters, const Conventions& conventions,
                                        double eps = norm_epsilon) {
    const Index T = x.dim(0);
    const Index H_I = w.H_I();
    const Index D_I = w.D_I();
    const Rope<P> turn(rope_parameters, d_rope, positions);
    IndexerProjection<P> out;

    out.q = linear(c_q, w.W_qI, conventions);
    out.q.reshape({T, H_I, D_I});
    out.k = layer_norm(linear(x, w.W_kI, conventions), w.k_norm, w.k_bias, eps);
    for (Index t = 0; t < T; ++t) {
        for (Index j = 0; j < H_I; ++j) turn.rotate(out.q.row(t, j).head(d_rope), t, conventions.indexer_rope);
        turn.rotate(out.k.row(t).head(d_rope), t, conventions.indexer_rope);
    }
    if (conventions.hadamard) {
        out.q = hadamard(std::move(out.q));
        out.k = hadamard(std::move(out.k));
    }

    out.weights = matmul(x, w.W_w);
    if (conventions.weights_proj == Stored::bf16) out.weights = stored_as_bf16(std::move(out.weights));
    double factor = 1.0 / std::sqrt(static_cast<double>(H_I) * static_cast<double>(D_I));
    if (conventions.yarn_mscale_in_indexer) factor *= yarn_mscale(rope_parameters) * yarn_mscale(rope_parameters);
    for (Index i = 0; i < out.weights.size(); ++i) out.weights[i] *= P::constant(factor);
    return out;
}

// Queries and keys to e4m3; each query head's scale moves into its weight. One scale a vector.
template <class P>
IndexerInputs<P> indexer_quantize(IndexerProjection<P> in, const Conventions& conventions) {
    const Index D_I = in.k.dim(1);
    Quantized<P> q = quantize(in.q, conventions.quantizer, conventions.scale_format, D_I);
    Quantized<P> k = quantize(in.k, conventions.quantizer, conventions.scale_format, D_I);
    for (Index i = 0; i < in.weights.size(); ++i) in.weights[i] *= q.scale[i];
    k.scale.reshape({k.scale.size()});
    q.scale.reshape(in.weights.shape());
    return {std::move(q.values), std::move(k.values), std::move(k.scale), std::move(in.weights), std::move(q.scale)};
}

// I(t, s) = k_scale(s) * sum_j weights(t, j) * ReLU(q(t, j) . k(s)), float32 accumulation (or Hopper's: fp8_sums);
// -inf where s is outside [start_t, end_t). q: [T, H_I, D_I]  k: [S, D_I]  k_scale: [S]  weights: [T, H_I]  start,
// end: [T]  -> logits [T, S]
template <class P>
Tensor<P> indexer_logits(const Tensor<P>& q, const Tensor<P>& k, const Tensor<P>& k_scale, const Tensor<P>& weights,
                         const Array<std::int32_t>& start, const Array<std::int32_t>& end,
                         const Conventions& conventions) {
    using Real = typename P::Real;
    const Index T = q.dim(0);
    const Index H_I = q.dim(1);
    const Index S = k.dim(0);
    constexpr Index chunk = 512;  // positions scored at once, so that all heads' dots fit in the cache
    Tensor<P> logits({T, S}, Real(-std::numeric_limits<double>::infinity()));
    for (Index t = 0; t < T; ++t) {
        for (Index first = start[t]; first < end[t]; first += chunk) {
            const Index count = std::min<Index>(chunk, end[t] - first);
            const auto queries = q.slice(t);  // [H_I, D_I]
            const auto keys = k.matrix().middleRows(first, count).transpose();
            Matrix<Real> dots = matmul(queries, keys);  // [H_I, count]
            if constexpr (std::is_same_v<Real, Bounded>)
                if (conventions.fp8_sums == Fp8Sums::hopper) lose_in_fp8_sums(dots, queries, keys);
            // Head by head over all positions: each score still adds its heads in order.
            Eigen::Array<Real, 1, Eigen::Dynamic> scores =
                Eigen::Array<Real, 1, Eigen::Dynamic>::Constant(count, Real(0.0));
            for (Index j = 0; j < H_I; ++j) {
                const Real weight = weights(t, j);
                for (Index s = 0; s < count; ++s) scores(s) += weight * relu(dots(j, s));
            }
            for (Index s = 0; s < count; ++s) {
                const Real score = scores(s) * k_scale[first + s];
                logits(t, first + s) = conventions.indexer_scores == Stored::bf16 ? P::bf16(score) : score;
            }
        }
    }
    return logits;
}

}  // namespace dsa
