// How does the indexer learn? By the Kullback-Leibler divergence from where attention looks to where the
// indexer would look; the gradient stops at the indexer. DeepSeek-V3.2-Exp report, section 2.1; spec section 7.
#pragma once

#include "reference/attention/sparse_attention.h"
#include "reference/attention/top_k.h"

namespace dsa {

// What the indexer is trained on: unquantised, all factors already in the weights.
template <class P>
struct IndexerKl {
    Tensor<P> loss;      // [1]
    Tensor<P> dq;        // [T, H_I, D_I]
    Tensor<P> dk;        // [S, D_I]
    Tensor<P> dweights;  // [T, H_I]
};

// Positions that query t is trained on, and the target's probability of each.
template <class P>
struct KlCandidates {
    std::vector<Index> positions;
    std::vector<typename P::Real> target;
};

// loss = sum_t KL(p_t || softmax(I_t)), I(t, s) = sum_j w(t, j) ReLU(q(t, j) . k(s)); over queries' mean and
// times a coefficient by convention. Gradients by spec section 7; at a dot of exactly 0 ReLU's slope is 0.
// q: [T, H_I, D_I]  k: [S, D_I]  weights: [T, H_I]  candidates: one for each t
template <class P>
IndexerKl<P> indexer_kl_loss(const Tensor<P>& q, const Tensor<P>& k, const Tensor<P>& weights,
                             const std::vector<KlCandidates<P>>& candidates, const Conventions& conventions) {
    using Real = typename P::Real;
    const Index T = q.dim(0);
    const Index H_I = q.dim(1);
    IndexerKl<P> result{Tensor<P>({1}), Tensor<P>(q.shape()), Tensor<P>(k.shape()), Tensor<P>(weights.shape())};

    Index valid = 0;
    for (const auto& c : candidates) valid += c.positions.empty() ? 0 : 1;
    double factor = conventions.kl_coefficient;
    if (conventions.kl_reduction == KlReduction::mean && valid > 0) factor /= static_cast<double>(valid);

    for (Index t = 0; t < T; ++t) {
        const auto& [positions, target] = candidates[static_cast<std::size_t>(t)];
        if (positions.empty()) continue;
        const auto n = static_cast<Index>(positions.size());
        const Matrix<Real> keys = gathered(k, positions);                // [n, D_I]
        const Matrix<Real> dots = matmul(q.slice(t), keys.transpose());  // [H_I, n]
        Eigen::Array<Real, 1, Eigen::Dynamic> scores(n);
        for (Index s = 0; s < n; ++s) {
            Real score(0.0);
            for (Index j = 0; j < H_I; ++j) score += weights(t, j) * relu(dots(j, s));
            scores(s) = score;
        }
        const Softmax<P> prediction(scores);
        const Real lse = prediction.lse();

        // dL/dI = softmax(I) - p, kept per head as dL/d(dot) = dL/dI w_j [dot > 0].
        Matrix<Real> d_dots(H_I, n);
        for (Index s = 0; s < n; ++s) {
            const Real p = target[static_cast<std::size_t>(s)];
            // p log(p / softmax), which is 0 where p is.
            if (value_of(p) > 0.0) result.loss[0] += P::constant(factor) * p * (log(p) - (scores(s) - lse));
            const Real d_score = P::constant(factor) * (prediction.exponentials(s) / prediction.sum - p);
            for (Index j = 0; j < H_I; ++j) {
                result.dweights(t, j) += d_score * relu(dots(j, s));
                d_dots(j, s) = value_of(dots(j, s)) > 0.0 ? d_score * weights(t, j) : Real(0.0);
            }
        }
        result.dq.slice(t) = matmul(d_dots, keys);                           // [H_I, D_I]
        const Matrix<Real> d_keys = matmul(d_dots.transpose(), q.slice(t));  // [n, D_I]
        for (Index s = 0; s < n; ++s) result.dk.matrix().row(positions[static_cast<std::size_t>(s)]) += d_keys.row(s);
    }
    return result;
}

// Every causal position is a candidate (dense warm-up). target: [T, S]
template <class P>
std::vector<KlCandidates<P>> causal_candidates(const Tensor<P>& target) {
    const Index T = target.dim(0);
    const Index S = target.dim(1);
    std::vector<KlCandidates<P>> all(static_cast<std::size_t>(T));
    for (Index t = 0; t < T; ++t)
        for (Index s = 0; s <= S - T + t; ++s) {
            all[static_cast<std::size_t>(t)].positions.push_back(s);
            all[static_cast<std::size_t>(t)].target.push_back(target(t, s));
        }
    return all;
}

// The selected positions are the candidates (sparse stage). indices, target: [T, k]
template <class P>
std::vector<KlCandidates<P>> selected_candidates(const Tensor<P>& target, const Array<std::int32_t>& indices,
                                                 Index S) {
    std::vector<KlCandidates<P>> all(static_cast<std::size_t>(target.dim(0)));
    for (Index t = 0; t < target.dim(0); ++t) {
        auto& [positions, p] = all[static_cast<std::size_t>(t)];
        positions = selected_positions(indices, t, S);
        for (Index i = 0; i < indices.dim(1) && p.size() < positions.size(); ++i)
            if (indices(t, i) == positions[p.size()]) p.push_back(target(t, i));
    }
    return all;
}

}  // namespace dsa
