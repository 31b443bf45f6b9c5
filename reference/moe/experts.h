// What does an expert do? A gated feed-forward net; a token's output is the weighted sum of its experts'
// and of one that all tokens share. spec section 6.
#pragma once

#include <functional>

#include "reference/attention/linear.h"
#include "reference/moe/gate.h"

namespace dsa {

struct FeedForwardWeights {
    Weight W_gate;  // [D, F]
    Weight W_up;    // [D, F]
    Weight W_down;  // [F, D]
};

// W_down(silu(W_gate x) * W_up x), [T, D] -> [T, D]
template <class P>
Tensor<P> feed_forward(const Tensor<P>& x, const FeedForwardWeights& w, const Conventions& conventions) {
    const Tensor<P> gate = linear(x, w.W_gate, conventions);
    const Tensor<P> up = linear(x, w.W_up, conventions);
    Tensor<P> hidden(gate.shape());
    for (Index i = 0; i < hidden.size(); ++i) hidden[i] = P::bf16(silu(gate[i]) * up[i]);
    return linear(hidden, w.W_down, conventions);
}

struct MoeWeights {
    Weight W_g;                                              // [D, E]
    Array<float> bias;                                       // [E]
    std::function<FeedForwardWeights(Index expert)> expert;  // asked for when a token visits it, not before
    FeedForwardWeights shared;                               // empty W_gate: none
    GateShape shape;
};

// y = sum_e weight_e FFN_e(x) + FFN_shared(x), accumulated in float32 in the order of the expert's number.
// x: [T, D]  gate: of the same x  -> y [T, D]
template <class P>
Tensor<P> moe(const Tensor<P>& x, const Gate<P>& gate, const MoeWeights& w, const Conventions& conventions) {
    Tensor<P> y(x.shape());
    const Index E = w.W_g.cols();
    for (Index e = 0; e < E; ++e) {
        // The tokens that visit e are computed together: its weights are read once.
        std::vector<std::pair<Index, Index>> visits;  // (token, slot)
        for (Index t = 0; t < x.dim(0); ++t)
            for (Index i = 0; i < gate.experts.dim(1); ++i)
                if (gate.experts(t, i) == e) visits.emplace_back(t, i);
        if (visits.empty()) continue;
        Tensor<P> tokens({static_cast<Index>(visits.size()), x.dim(1)});
        for (std::size_t v = 0; v < visits.size(); ++v) tokens.row(static_cast<Index>(v)) = x.row(visits[v].first);
        const Tensor<P> out = feed_forward(tokens, w.expert(e), conventions);
        for (std::size_t v = 0; v < visits.size(); ++v) {
            const auto [t, i] = visits[v];
            y.row(t) += out.row(static_cast<Index>(v)) * gate.weights(t, i);
        }
    }
    if (!w.shared.W_gate.empty()) y.matrix() += feed_forward(x, w.shared, conventions).matrix();
    return stored_as_bf16(std::move(y));
}

}  // namespace dsa
