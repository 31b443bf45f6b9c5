// What should the indexer learn? Where the attention heads look, all together: the sum of their attention
// probabilities, scaled to sum to one. DeepSeek-V3.2-Exp report, section 2.1; spec section 7.
#pragma once

#include "reference/attention/sparse_attention.h"

namespace dsa {

namespace detail {

// Sum over heads of softmax, for one query over `rows`. -> [n]
template <class P, class Rows>
Eigen::Array<typename P::Real, 1, Eigen::Dynamic> summed_probabilities(const Tensor<P>& q, Index t, const Rows& rows,
                                                                       double scale) {
    using Real = typename P::Real;
    const Matrix<Real> scores = matmul(q.slice(t), rows.transpose());  // [H, n]
    Eigen::Array<Real, 1, Eigen::Dynamic> total =
        Eigen::Array<Real, 1, Eigen::Dynamic>::Constant(scores.cols(), Real(0.0));
    for (Index h = 0; h < scores.rows(); ++h) {
        const Softmax<P> softmax(scores.row(h).array() * P::constant(scale));
        total += softmax.exponentials * (Real(1.0) / softmax.sum);
    }
    return total;
}

}  // namespace detail

// p_t(s): sum over heads of the causal attention probabilities, over the number of heads.
// q: [T, H, d]  kv: [S, d]  -> p [T, S], 0 where s > p_t
template <class P>
Tensor<P> attention_target(const Tensor<P>& q, const Tensor<P>& kv, double scale) {
    using Real = typename P::Real;
    const Index T = q.dim(0);
    const Index S = kv.dim(0);
    Tensor<P> p({T, S});
    const auto heads = static_cast<Real>(static_cast<double>(q.dim(1)));
    for (Index t = 0; t < T; ++t) {
        const Index seen = S - T + t + 1;
        // The probabilities of H heads sum to H: dividing by H is the L1 normalisation.
        p.row(t).head(seen) = detail::summed_probabilities(q, t, kv.matrix().topRows(seen), scale) / heads;
    }
    return p;
}

// The target on a selected set, in the order of `indices`: each head's softmax over the set (softmax_on_set),
// or its softmax over all causal positions restricted to the set (renormalised); then summed over heads and
// L1-normalised. indices: [T, k]  -> p [T, k], 0 in skipped slots (-1, out of range, and repeats)
template <class P>
Tensor<P> attention_target(const Tensor<P>& q, const Tensor<P>& kv, const Array<std::int32_t>& indices, double scale,
                           SparseKlTarget reading) {
    using Real = typename P::Real;
    const Index T = q.dim(0);
    const Index S = kv.dim(0);
    Tensor<P> p({T, indices.dim(1)});
    for (Index t = 0; t < T; ++t) {
        const std::vector<Index> selected = selected_positions(indices, t, S);
        if (selected.empty()) continue;
        Eigen::Array<Real, 1, Eigen::Dynamic> on_set(selected.size());
        if (reading == SparseKlTarget::softmax_on_set) {
            on_set = detail::summed_probabilities(q, t, gathered(kv, selected), scale);
        } else {
            const auto all = detail::summed_probabilities(q, t, kv.matrix().topRows(S - T + t + 1), scale);
            for (std::size_t i = 0; i < selected.size(); ++i) {
                require(selected[i] < all.size(), "attention_target: indices[", t, "] holds position ", selected[i],
                        ", which query ", t, " cannot see; the last it can see is ", all.size() - 1);
                on_set(static_cast<Index>(i)) = all(selected[i]);
            }
        }
        const Real total = ordered_sum(on_set);
        // Back to the slots that the selected positions came from.
        std::size_t next = 0;
        for (Index i = 0; i < indices.dim(1) && next < selected.size(); ++i)
            if (indices(t, i) == selected[next]) p(t, i) = on_set(static_cast<Index>(next++)) / total;
    }
    return p;
}

}  // namespace dsa
