// How does a gradient pass a mixture of experts? Through the experts that a token visited, and through the weights
// with which it heard them; the choice itself has none. What is computed is what reference/moe computes.
//
// Weights lie as Hugging Face stores them, [out, in]. d_x stands for the gradient of the loss with respect to x.
#pragma once

#include "reference/moe/gate.h"
#include "reference/training/layers.h"

namespace dsa {

// y = silu(gate) * up, with silu(a) = a s(a), silu'(a) = s (1 + a (1 - s)).   gate, up: [T, F]  -> [T, F]
template <class P>
Var<P> swiglu(Tape<P>& tape, const Var<P>& gate, const Var<P>& up) {
    const auto a = gate->value().matrix().array();
    Tensor<P> s(gate->value().shape());
    s.matrix() = sigmoid_of<P>(a);
    Tensor<P> y(s.shape());
    y.matrix() = (a * s.matrix().array() * up->value().matrix().array()).matrix();
    return tape.result(stored(std::move(y)), {gate, up}, [gate, up, s](const Tensor<P>& d_y) {
        const auto x = gate->value().matrix().array();
        const auto sigma = s.matrix().array();
        const auto d = d_y.matrix().array();
        const typename P::Real one(1.0);
        if (gate->learns())
            gate->gradient().matrix().array() += d * up->value().matrix().array() * sigma * (one + x * (one - sigma));
        if (up->learns()) up->gradient().matrix().array() += d * x * sigma;
    });
}

// The names of a feed-forward net's three weights follow its prefix.
template <class P, class Weights>
Var<P> feed_forward(Tape<P>& tape, const Var<P>& x, const std::string& prefix, const Weights& w) {
    // One statement each: in which order a call evaluates its arguments is the compiler's choice, and the order on the
    // tape is the order in which gradients are added.
    const Var<P> up = linear(tape, x, w(prefix + "up_proj.weight"));
    const Var<P> gate = linear(tape, x, w(prefix + "gate_proj.weight"));
    return linear(tape, swiglu(tape, gate, up), w(prefix + "down_proj.weight"));
}

// y = 1 / (1 + exp(-x)), kept in float32;  d_x = d_y y (1 - y)
template <class P>
Var<P> sigmoid(Tape<P>& tape, const Var<P>& x) {
    Tensor<P> y(x->value().shape());
    y.matrix() = sigmoid_of<P>(x->value().matrix().array());
    return tape.result(
        std::move(y), {x},
        [x](const Tensor<P>& d_y, const Tensor<P>& s) {
            x->gradient().matrix().array() +=
                d_y.matrix().array() * s.matrix().array() * (typename P::Real(1.0) - s.matrix().array());
        },
        Stored::float32);
}

// The weights of the chosen experts: w_i = r s_i / sum s, d_s_i = r (d_w_i - sum_j d_w_j s_j / sum s) / sum s. The
// choice itself has no gradient, and so neither has the bias that joins it.
// scores: [T, E]  experts: [T, E_a]  -> [T, E_a]
template <class P>
Var<P> expert_weights(Tape<P>& tape, const Var<P>& scores, const Array<std::int32_t>& experts, const GateShape& shape,
                      const Conventions& conventions) {
    using Real = typename P::Real;
    Tensor<P> weights = expert_weights(Gate<P>{scores->value(), experts, {}}, shape, conventions);
    return tape.result(
        std::move(weights), {scores},
        [scores, experts, shape, conventions](const Tensor<P>& d_w) {
            const Real r = P::constant(shape.route_scale);
            for (Index t = 0; t < experts.dim(0); ++t) {
                Real total = P::constant(conventions.router_eps);
                Real mean(0.0);
                for (Index i = 0; i < shape.active; ++i) total += scores->value()(t, experts(t, i));
                for (Index i = 0; i < shape.active; ++i)
                    mean += d_w(t, i) * scores->value()(t, experts(t, i)) / total;
                for (Index i = 0; i < shape.active; ++i)
                    scores->gradient()(t, experts(t, i)) +=
                        shape.normalise ? r * (d_w(t, i) - mean) / total : r * d_w(t, i);
            }
        },
        Stored::float32);
}

// A token that visits an expert, and in which of its slots.
struct Visit {
    Index token;
    Index slot;
};

// The rows of the tokens that visit.   x: [T, D]  -> [visits, D]
template <class P>
Var<P> visiting_rows(Tape<P>& tape, const Var<P>& x, const std::vector<Visit>& visits) {
    Tensor<P> y({static_cast<Index>(visits.size()), x->value().cols()});
    for (std::size_t v = 0; v < visits.size(); ++v) y.row(static_cast<Index>(v)) = x->value().row(visits[v].token);
    return tape.result(std::move(y), {x}, [x, visits](const Tensor<P>& d_y) {
        for (std::size_t v = 0; v < visits.size(); ++v)
            x->gradient().row(visits[v].token) += d_y.row(static_cast<Index>(v));
    });
}

// y_t = sum over experts of weight(t, slot) times what the expert made of token t.
// outs[e]: [visits of e, D], null for none  weights: [T, E_a]  -> [T, D]
template <class P>
Var<P> weighted_experts(Tape<P>& tape, const std::vector<Var<P>>& outs, const std::vector<std::vector<Visit>>& visits,
                        const Var<P>& weights, Index D, Stored as) {
    Tensor<P> y({weights->value().dim(0), D});
    std::vector<Var<P>> operands{weights};
    for (std::size_t e = 0; e < outs.size(); ++e) {
        if (!outs[e]) continue;
        operands.push_back(outs[e]);
        for (std::size_t v = 0; v < visits[e].size(); ++v) {
            const auto [t, i] = visits[e][v];
            y.row(t) += outs[e]->value().row(static_cast<Index>(v)) * weights->value()(t, i);
        }
    }
    return tape.result(
        stored(std::move(y), as), operands,
        [outs, visits, weights](const Tensor<P>& d_y) {
            for (std::size_t e = 0; e < outs.size(); ++e) {
                if (!outs[e]) continue;
                for (std::size_t v = 0; v < visits[e].size(); ++v) {
                    const auto [t, i] = visits[e][v];
                    const auto row = static_cast<Index>(v);
                    if (weights->learns())
                        weights->gradient()(t, i) += sum_of<P>(d_y.row(t) * outs[e]->value().row(row));
                    if (outs[e]->learns()) outs[e]->gradient().row(row) += d_y.row(t) * weights->value()(t, i);
                }
            }
        },
        as);
}

// y_t = sum over the chosen experts of weight times FFN_e(x_t), plus FFN_shared(x_t).   x: [T, D]  bias: [E]  -> [T,
// D] weights(name): "gate.weight", "experts.N.up_proj.weight", "shared_experts.up_proj.weight" and so on
template <class P, class Weights>
Var<P> mixture_of_experts(Tape<P>& tape, const std::string& scope, const Var<P>& x, const Array<float>& bias,
                          bool has_shared, const GateShape& shape, const Conventions& conventions,
                          const Weights& weights, std::vector<std::int64_t>* count_of_visits = nullptr) {
    const Var<P> scores =
        tape.stage(scope, "gate_scores", sigmoid(tape, linear(tape, x, weights("gate.weight"), Stored::float32)),
                   DType::float32);
    const Array<std::int32_t> chosen =
        tape.choice(scope, "expert_ids", chosen_experts(scores->value(), bias, shape, conventions));
    const Var<P> chosen_weights =
        tape.stage(scope, "expert_weights", expert_weights(tape, scores, chosen, shape, conventions), DType::float32);

    std::vector<std::vector<Visit>> visits(static_cast<std::size_t>(scores->value().dim(1)));
    for (Index t = 0; t < chosen.dim(0); ++t)
        for (Index i = 0; i < chosen.dim(1); ++i) visits[static_cast<std::size_t>(chosen(t, i))].push_back({t, i});
    std::vector<Var<P>> outs(visits.size());
    for (std::size_t e = 0; e < visits.size(); ++e) {
        if (count_of_visits != nullptr) count_of_visits->push_back(static_cast<std::int64_t>(visits[e].size()));
        if (!visits[e].empty())
            outs[e] =
                feed_forward(tape, visiting_rows(tape, x, visits[e]), "experts." + std::to_string(e) + ".", weights);
    }
    const Var<P> routed = weighted_experts(tape, outs, visits, chosen_weights, x->value().dim(1),
                                           has_shared ? Stored::float32 : Stored::bf16);
    return has_shared ? add(tape, routed, feed_forward(tape, x, "shared_experts.", weights)) : routed;
}

}  // namespace dsa
