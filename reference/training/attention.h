// Attention and the indexer on the tape. Training runs MLA in MHA mode, each head with its own keys and values, and
// takes a selection as a set of allowed pairs: the same sums as over gathered tokens, in another order. What is saved
// by selecting is counted, not timed (docs/13-teaching-the-indexer.md).
#pragma once

#include "reference/attention/top_k.h"
#include "reference/training/tape.h"

namespace dsa {

// Which positions each query may attend to.   [T, T] of 0 and 1; empty: all causal ones
using Allowed = Matrix<std::uint8_t>;

// indices: [T, k], -1 in unused slots
inline Allowed allowed_pairs(const Array<std::int32_t>& indices) {
    const Index T = indices.dim(0);
    Allowed allowed = Allowed::Zero(T, T);
    for (Index t = 0; t < T; ++t)
        for (Index i = 0; i < indices.dim(1); ++i)
            if (indices(t, i) >= 0) allowed(t, indices(t, i)) = 1;
    return allowed;
}

namespace detail {

// Rows that are worked on together: their causal part is a rectangle with a small triangle too much.
inline constexpr Index query_block = 64;

// Softmax of each row t of scores [T, T] over its allowed positions, in place; 0 elsewhere.
// -> [T], each row's log of the sum of exponentials, so that log softmax = score - it
template <class Real>
std::vector<double> softmax_rows(Matrix<Real>& scores, const Allowed& allowed) {
    const Index T = scores.rows();
    std::vector<double> lse(static_cast<std::size_t>(T));
    for (Index t = 0; t < T; ++t) {
        auto row = scores.row(t).array();
        if (allowed.size() > 0)
            for (Index s = 0; s <= t; ++s)
                if (allowed(t, s) == 0) row(s) = -std::numeric_limits<Real>::infinity();
        const Real max = row.head(t + 1).maxCoeff();
        row.head(t + 1) = (row.head(t + 1) - max).exp();
        const Real sum = row.head(t + 1).sum();
        row.head(t + 1) /= sum;
        row.tail(T - t - 1).setZero();
        lse[static_cast<std::size_t>(t)] = static_cast<double>(max) + std::log(static_cast<double>(sum));
    }
    return lse;
}

// work(first row, rows) for each block.
template <class Work>
void in_query_blocks(Index T, const Work& work) {
    for (Index r = 0; r < T; r += query_block) work(r, std::min(query_block, T - r));
}

// a b^T where the result [T, T] is causal: the blocks above the diagonal are left as they are.
template <class Real, class A, class B>
void causal_product(const A& a, const B& b, Matrix<Real>& c) {
    const Index T = a.rows();
    in_query_blocks(T, [&](Index r, Index rows) {
        c.block(r, 0, rows, r + rows).noalias() = a.middleRows(r, rows) * b.topRows(r + rows).transpose();
    });
}

// p b and p^T b, p [T, T] being 0 above the diagonal.
template <class Real, class B>
Matrix<Real> lower_times(const Matrix<Real>& p, const B& b) {
    const Index T = p.rows();
    Matrix<Real> c(T, b.cols());
    in_query_blocks(T, [&](Index r, Index rows) {
        c.middleRows(r, rows).noalias() = p.block(r, 0, rows, r + rows) * b.topRows(r + rows);
    });
    return c;
}
template <class Real, class B>
Matrix<Real> lower_transposed_times(const Matrix<Real>& p, const B& b) {
    const Index T = p.rows();
    Matrix<Real> c(T, b.cols());
    in_query_blocks(T, [&](Index r, Index rows) {
        c.middleRows(r, rows).noalias() = p.block(r, r, T - r, rows).transpose() * b.middleRows(r, T - r);
    });
    return c;
}

}  // namespace detail

struct HeadSizes {
    Index heads, d_nope, d_rope, d_v;
    Index d_q() const { return d_nope + d_rope; }
};

template <class P>
struct Attended {
    Var<P> out;        // [T, H d_v]
    Tensor<P> target;  // [T, T]: the heads' probabilities over what they may attend to, mean over heads
    Tensor<P> dense;   // [T, T]: the same over all causal positions; as `target` where everything is allowed
};

// P = softmax(scale Q K^T) over the allowed pairs, out = P V, for each head with k = [k_nope, k_rope].
//   d_V = P^T d_out,  d_S = P * (d_out V^T - rowsum(d_out * out)) scale,  d_Q = d_S K,  d_K = d_S^T Q
// q: [T, H (d_nope + d_rope)], rotated  kv: [T, H (d_nope + d_v)]  k_rope: [T, d_rope], rotated
template <class P>
Attended<P> attention(Tape<P>& tape, const Var<P>& q, const Var<P>& kv, const Var<P>& k_rope, HeadSizes sizes,
                      double scale, const Allowed& allowed, bool wants_dense) {
    using Real = typename P::Real;
    const Index T = q->value().dim(0);
    const Real factor = P::constant(scale);
    Attended<P> result{nullptr, Tensor<P>({T, T}), {}};
    if (wants_dense && allowed.size() > 0) result.dense = Tensor<P>({T, T});
    Tensor<P> out({T, sizes.heads * sizes.d_v});
    auto probabilities = std::make_shared<std::vector<Matrix<Real>>>();
    const auto keys = [=](Index h) {
        Matrix<Real> k(T, sizes.d_q());
        k << kv->value().matrix().middleCols(h * (sizes.d_nope + sizes.d_v), sizes.d_nope), k_rope->value().matrix();
        return k;
    };
    const auto queries = [=](Index h) { return q->value().matrix().middleCols(h * sizes.d_q(), sizes.d_q()); };
    const auto values = [=](Index h) {
        return kv->value().matrix().middleCols(h * (sizes.d_nope + sizes.d_v) + sizes.d_nope, sizes.d_v);
    };
    for (Index h = 0; h < sizes.heads; ++h) {
        Matrix<Real> p = Matrix<Real>::Zero(T, T);
        detail::causal_product(Matrix<Real>(queries(h) * factor), keys(h), p);
        if (result.dense.size() > 0) {
            Matrix<Real> everywhere = p;
            detail::softmax_rows(everywhere, {});
            result.dense.matrix() += everywhere;
        }
        detail::softmax_rows(p, allowed);
        result.target.matrix() += p;
        out.matrix().middleCols(h * sizes.d_v, sizes.d_v) = detail::lower_times(p, values(h));
        probabilities->push_back(std::move(p));
    }
    // The probabilities of H heads sum to H: dividing by H is the L1 normalisation.
    result.target.matrix() /= static_cast<Real>(sizes.heads);
    if (result.dense.size() > 0) result.dense.matrix() /= static_cast<Real>(sizes.heads);
    if (wants_dense && allowed.size() == 0) result.dense = result.target;

    const Tensor<P> kept = out;
    result.out = tape.result(std::move(out), {q, kv, k_rope}, [=](const Tensor<P>& d_out) {
        for (Index h = 0; h < sizes.heads; ++h) {
            const Matrix<Real>& p = (*probabilities)[static_cast<std::size_t>(h)];
            const Index v_at = h * (sizes.d_nope + sizes.d_v) + sizes.d_nope;
            const auto d_o = d_out.matrix().middleCols(h * sizes.d_v, sizes.d_v);
            const auto o = kept.matrix().middleCols(h * sizes.d_v, sizes.d_v);
            Matrix<Real> d_s = Matrix<Real>::Zero(T, T);
            detail::causal_product(d_o, values(h), d_s);
            const Eigen::Array<Real, Eigen::Dynamic, 1> delta = (d_o.array() * o.array()).rowwise().sum();
            d_s = (p.array() * (d_s.array().colwise() - delta) * factor).matrix();
            if (q->learns())
                q->gradient().matrix().middleCols(h * sizes.d_q(), sizes.d_q()) += detail::lower_times(d_s, keys(h));
            const Matrix<Real> d_k = detail::lower_transposed_times(d_s, queries(h));
            if (kv->learns()) {
                kv->gradient().matrix().middleCols(v_at, sizes.d_v) += detail::lower_transposed_times(p, d_o);
                kv->gradient().matrix().middleCols(v_at - sizes.d_nope, sizes.d_nope) += d_k.leftCols(sizes.d_nope);
            }
            if (k_rope->learns()) k_rope->gradient().matrix() += d_k.rightCols(sizes.d_rope);
        }
    });
    return result;
}

// I(t, s) = sum_j w(t, j) ReLU(q(t, j) . k(s)), -inf above the diagonal;
//   d_w = d_I ReLU(q . k),  d_q = d_I w [q . k > 0] k,  d_k = sum_j d_I w [q . k > 0] q.  spec section 7
// q: [T, H_I D_I]  k: [T, D_I]  w: [T, H_I], all factors in it  -> [T, T]
template <class P>
Var<P> indexer_scores(Tape<P>& tape, const Var<P>& q, const Var<P>& k, const Var<P>& w) {
    using Real = typename P::Real;
    const Index T = k->value().dim(0);
    const Index D_I = k->value().dim(1);
    const Index H_I = w->value().dim(1);
    auto dots = std::make_shared<std::vector<Matrix<Real>>>();  // ReLU(q . k), one [T, T] a head
    Tensor<P> scores({T, T});
    for (Index j = 0; j < H_I; ++j) {
        Matrix<Real> dot = Matrix<Real>::Zero(T, T);
        detail::causal_product(q->value().matrix().middleCols(j * D_I, D_I), k->value().matrix(), dot);
        dot = dot.cwiseMax(Real(0.0));
        scores.matrix().array() += dot.array().colwise() * w->value().matrix().col(j).array();
        dots->push_back(std::move(dot));
    }
    for (Index t = 0; t < T; ++t) scores.row(t).tail(T - t - 1) = -std::numeric_limits<Real>::infinity();
    return tape.result(std::move(scores), {q, k, w}, [=](const Tensor<P>& d_scores) {
        for (Index j = 0; j < H_I; ++j) {
            const auto dot = (*dots)[static_cast<std::size_t>(j)].array();
            const auto d = d_scores.matrix().array();
            if (w->learns()) w->gradient().matrix().col(j).array() += (d * dot).rowwise().sum();
            const Matrix<Real> d_dot =
                ((dot > Real(0.0)).select(d, Real(0.0)).colwise() * w->value().matrix().col(j).array()).matrix();
            if (q->learns())
                q->gradient().matrix().middleCols(j * D_I, D_I) += detail::lower_times(d_dot, k->value().matrix());
            if (k->learns())
                k->gradient().matrix() +=
                    detail::lower_transposed_times(d_dot, q->value().matrix().middleCols(j * D_I, D_I));
        }
    });
}

// Of one layer, mean over queries.
struct KlNumbers {
    double kl = 0.0;          // KL(target || softmax of the scores)
    double kl_uniform = 0.0;  // KL(target || every candidate alike): what knowing nothing costs
};

template <class P>
struct KlLoss {
    Var<P> loss;  // [1]
    KlNumbers numbers;
};

// coefficient * mean_t KL(p_t || softmax(I_t)) over the allowed positions;  d_I = coefficient (softmax(I_t) - p_t) /
// T scores: [T, T]  target: [T, T], each row summing to 1 over the allowed positions
template <class P>
KlLoss<P> indexer_kl(Tape<P>& tape, const Var<P>& scores, const Tensor<P>& target, const Allowed& allowed,
                     double coefficient) {
    using Real = typename P::Real;
    const Index T = target.dim(0);
    Matrix<Real> prediction = scores->value().matrix();
    const std::vector<double> lse = detail::softmax_rows(prediction, allowed);
    KlLoss<P> result{nullptr, {}};
    for (Index t = 0; t < T; ++t) {
        Index candidates = 0;
        double entropy = 0.0;  // -sum p log p
        double cross = 0.0;    // -sum p log softmax
        for (Index s = 0; s <= t; ++s) {
            if (allowed.size() > 0 && allowed(t, s) == 0) continue;
            ++candidates;
            const auto p = static_cast<double>(target(t, s));
            if (!(p > 0.0)) continue;
            entropy -= p * std::log(p);
            // From the scores, not the softmax: one that has become 0 still has a logarithm.
            cross -= p * (static_cast<double>(scores->value()(t, s)) - lse[static_cast<std::size_t>(t)]);
        }
        result.numbers.kl += (cross - entropy) / static_cast<double>(T);
        result.numbers.kl_uniform += (std::log(static_cast<double>(candidates)) - entropy) / static_cast<double>(T);
    }
    Tensor<P> loss({1});
    loss[0] = static_cast<Real>(coefficient * result.numbers.kl);
    const Real factor = P::constant(coefficient / static_cast<double>(T));
    auto d_scores = std::make_shared<Matrix<Real>>((prediction - target.matrix()) * factor);
    result.loss = tape.result(std::move(loss), {scores}, [scores, d_scores](const Tensor<P>& d_loss) {
        scores->gradient().matrix() += *d_scores * d_loss[0];
    });
    return result;
}

// A distribution over all causal positions, on the allowed ones only and summing to 1 again.   p: [T, T]
template <class P>
Tensor<P> renormalised(Tensor<P> p, const Allowed& allowed) {
    using Real = typename P::Real;
    if (allowed.size() == 0) return p;
    for (Index t = 0; t < p.dim(0); ++t) {
        auto row = p.row(t);
        for (Index s = 0; s < row.size(); ++s)
            if (allowed(t, s) == 0) row(s) = Real(0.0);
        const Real sum = row.sum();
        // A selection that misses every probability that float32 can hold says nothing about its members.
        for (Index s = 0; s < row.size() && !(sum > Real(0.0)); ++s) row(s) = static_cast<Real>(allowed(t, s));
        row /= row.sum();
    }
    return p;
}

// The share of the dense attention's probability that lies on the allowed positions, mean over queries.
template <class P>
double recall_of_mass(const Tensor<P>& dense, const Allowed& allowed) {
    if (allowed.size() == 0) return 1.0;
    double total = 0.0;
    for (Index t = 0; t < dense.dim(0); ++t)
        for (Index s = 0; s <= t; ++s)
            if (allowed(t, s) != 0) total += static_cast<double>(dense(t, s));
    return total / static_cast<double>(dense.dim(0));
}

}  // namespace dsa
