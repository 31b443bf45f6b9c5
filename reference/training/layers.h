// The layers of the model on the tape: each with its gradient beside it. What they compute is what
// reference/attention and reference/moe compute; test_training.cpp holds the two against each other, and each
// gradient against differences.
//
// Weights lie as Hugging Face stores them, [out, in]. d_x stands for the gradient of the loss with respect to x.
#pragma once

#include "reference/attention/hadamard.h"
#include "reference/attention/quantize.h"
#include "reference/attention/rope.h"
#include "reference/moe/gate.h"
#include "reference/training/tape.h"

namespace dsa {

// y = x W^T;  d_x = d_y W,  d_W = d_y^T x.   x: [T, in]  W: [out, in]  -> [T, out]
template <class P>
Var<P> linear(Tape<P>& tape, const Var<P>& x, const Var<P>& W) {
    Tensor<P> y({x->value().dim(0), W->value().dim(0)});
    y.matrix().noalias() = x->value().matrix() * W->value().matrix().transpose();
    return tape.result(std::move(y), {x, W}, [x, W](const Tensor<P>& d_y) {
        if (x->learns()) x->gradient().matrix().noalias() += d_y.matrix() * W->value().matrix();
        if (W->learns()) W->gradient().matrix().noalias() += d_y.matrix().transpose() * x->value().matrix();
    });
}

// y = a + b, element by element
template <class P>
Var<P> add(Tape<P>& tape, const Var<P>& a, const Var<P>& b) {
    Tensor<P> y = a->value();
    y.matrix() += b->value().matrix();
    return tape.result(std::move(y), {a, b}, [a, b](const Tensor<P>& d_y) {
        for (const Var<P>& operand : {a, b})
            if (operand->learns()) operand->gradient().matrix() += d_y.matrix();
    });
}

// Row tokens[t] of the table.   table: [V, D]  tokens: [T]  -> [T, D]
template <class P>
Var<P> embedding(Tape<P>& tape, const Var<P>& table, const Array<std::int32_t>& tokens) {
    Tensor<P> y({tokens.size(), table->value().dim(1)});
    for (Index t = 0; t < tokens.size(); ++t) y.row(t) = table->value().row(tokens[t]);
    return tape.result(std::move(y), {table}, [table, tokens](const Tensor<P>& d_y) {
        for (Index t = 0; t < tokens.size(); ++t) table->gradient().row(tokens[t]) += d_y.row(t);
    });
}

// n = x / rms(x), y = n * weight;  d_x = (g - n mean(g n)) / rms(x) with g = d_y * weight.   x: [T, D]  -> [T, D]
template <class P>
Var<P> rms_norm(Tape<P>& tape, const Var<P>& x, const Var<P>& weight, double eps) {
    using Real = typename P::Real;
    const Index T = x->value().rows();
    const auto D = static_cast<Real>(x->value().cols());
    Tensor<P> y(x->value().shape());
    Tensor<P> inverse_rms({T});
    for (Index t = 0; t < T; ++t) {
        const auto row = x->value().row(t);
        inverse_rms[t] = Real(1.0) / sqrt(row.square().sum() / D + P::constant(eps));
        y.row(t) = row * inverse_rms[t] * weight->value().row(0);
    }
    return tape.result(std::move(y), {x, weight}, [x, weight, inverse_rms, D](const Tensor<P>& d_y) {
        for (Index t = 0; t < d_y.rows(); ++t) {
            const Eigen::Array<Real, 1, Eigen::Dynamic> n = x->value().row(t) * inverse_rms[t];
            const Eigen::Array<Real, 1, Eigen::Dynamic> g = d_y.row(t) * weight->value().row(0);
            if (x->learns()) x->gradient().row(t) += (g - n * ((g * n).sum() / D)) * inverse_rms[t];
            if (weight->learns()) weight->gradient().row(0) += d_y.row(t) * n;
        }
    });
}

// n = (x - mean) / deviation, y = n * weight + bias;  d_x = (g - mean(g) - n mean(g n)) / deviation.   x: [T, D]
template <class P>
Var<P> layer_norm(Tape<P>& tape, const Var<P>& x, const Var<P>& weight, const Var<P>& bias, double eps) {
    using Real = typename P::Real;
    const Index T = x->value().rows();
    const auto D = static_cast<Real>(x->value().cols());
    Tensor<P> y(x->value().shape());
    Tensor<P> normal(x->value().shape());
    Tensor<P> inverse_deviation({T});
    for (Index t = 0; t < T; ++t) {
        const auto row = x->value().row(t);
        normal.row(t) = row - row.sum() / D;
        inverse_deviation[t] = Real(1.0) / sqrt(normal.row(t).square().sum() / D + P::constant(eps));
        normal.row(t) *= inverse_deviation[t];
        y.row(t) = normal.row(t) * weight->value().row(0) + bias->value().row(0);
    }
    return tape.result(
        std::move(y), {x, weight, bias}, [x, weight, bias, normal, inverse_deviation, D](const Tensor<P>& d_y) {
            for (Index t = 0; t < d_y.rows(); ++t) {
                const auto n = normal.row(t);
                const Eigen::Array<Real, 1, Eigen::Dynamic> g = d_y.row(t) * weight->value().row(0);
                if (x->learns())
                    x->gradient().row(t) += (g - g.sum() / D - n * ((g * n).sum() / D)) * inverse_deviation[t];
                if (weight->learns()) weight->gradient().row(0) += d_y.row(t) * n;
                if (bias->learns()) bias->gradient().row(0) += d_y.row(t);
            }
        });
}

// Turns `width` columns from `first` on of every head; the gradient turns back.
// x: [T, heads * head_width], row t at position t  -> the same shape
template <class P>
Var<P> rope(Tape<P>& tape, const Var<P>& x, const std::shared_ptr<const Rope<P>>& turn, Index head_width, Index first,
            Index width, RopeLayout layout) {
    const Index heads = x->value().cols() / head_width;
    Tensor<P> y = x->value();
    for (Index t = 0; t < y.rows(); ++t)
        for (Index h = 0; h < heads; ++h) turn->rotate(y.row(t).segment(h * head_width + first, width), t, layout);
    return tape.result(std::move(y), {x}, [=](Tensor<P> d_y) {
        for (Index t = 0; t < d_y.rows(); ++t)
            for (Index h = 0; h < heads; ++h)
                turn->rotate_back(d_y.row(t).segment(h * head_width + first, width), t, layout);
        x->gradient().matrix() += d_y.matrix();
    });
}

// The transform of each head is its own transpose, and so its own way back.   x: [T, heads * n], n a power of two
template <class P>
Var<P> hadamard(Tape<P>& tape, const Var<P>& x, Index n) {
    const Shape shape = x->value().shape();
    const auto transformed = [n, shape](Tensor<P> v) {
        v.reshape({v.size() / n, n});
        v = hadamard(std::move(v));
        v.reshape(shape);
        return v;
    };
    return tape.result(transformed(x->value()), {x}, [x, transformed](const Tensor<P>& d_y) {
        x->gradient().matrix() += transformed(d_y).matrix();
    });
}

// What e4m3 makes of a head, one scale each; the gradient goes straight through, since a step has none of its own
// (Bengio, Leonard, Courville, arXiv 1308.3432).   x: [T, heads * n]
template <class P>
Var<P> through_e4m3(Tape<P>& tape, const Var<P>& x, Index n, const Conventions& conventions) {
    Tensor<P> y = dequantized(quantize(x->value(), conventions.quantizer, conventions.scale_format, n));
    return tape.result(std::move(y), {x}, [x](const Tensor<P>& d_y) { x->gradient().matrix() += d_y.matrix(); });
}

// Columns first ... first + count - 1.   x: [T, N]  -> [T, count]
template <class P>
Var<P> columns(Tape<P>& tape, const Var<P>& x, Index first, Index count) {
    Tensor<P> y({x->value().rows(), count});
    y.matrix() = x->value().matrix().middleCols(first, count);
    return tape.result(std::move(y), {x}, [x, first, count](const Tensor<P>& d_y) {
        x->gradient().matrix().middleCols(first, count) += d_y.matrix();
    });
}

// y = x * factor
template <class P>
Var<P> scaled(Tape<P>& tape, const Var<P>& x, double factor) {
    const auto f = P::constant(factor);
    Tensor<P> y = x->value();
    y.matrix() *= f;
    return tape.result(std::move(y), {x},
                       [x, f](const Tensor<P>& d_y) { x->gradient().matrix() += d_y.matrix() * f; });
}

// y = silu(gate) * up, with silu(a) = a s(a), silu'(a) = s (1 + a (1 - s)).   gate, up: [T, F]  -> [T, F]
template <class P>
Var<P> swiglu(Tape<P>& tape, const Var<P>& gate, const Var<P>& up) {
    const auto a = gate->value().matrix().array();
    Tensor<P> s(gate->value().shape());
    s.matrix() = (typename P::Real(1.0) / (typename P::Real(1.0) + (-a).exp())).matrix();
    Tensor<P> y(s.shape());
    y.matrix() = (a * s.matrix().array() * up->value().matrix().array()).matrix();
    return tape.result(std::move(y), {gate, up}, [gate, up, s](const Tensor<P>& d_y) {
        const auto x = gate->value().matrix().array();
        const auto sigma = s.matrix().array();
        const auto d = d_y.matrix().array();
        if (gate->learns())
            gate->gradient().matrix().array() += d * up->value().matrix().array() * sigma * (1 + x * (1 - sigma));
        if (up->learns()) up->gradient().matrix().array() += d * x * sigma;
    });
}

// The names of a feed-forward net's three weights follow its prefix.
template <class P, class Weights>
Var<P> feed_forward(Tape<P>& tape, const Var<P>& x, const std::string& prefix, const Weights& w) {
    return linear(
        tape,
        swiglu(tape, linear(tape, x, w(prefix + "gate_proj.weight")), linear(tape, x, w(prefix + "up_proj.weight"))),
        w(prefix + "down_proj.weight"));
}

// y = 1 / (1 + exp(-x));  d_x = d_y y (1 - y)
template <class P>
Var<P> sigmoid(Tape<P>& tape, const Var<P>& x) {
    Tensor<P> y(x->value().shape());
    y.matrix() = (typename P::Real(1.0) / (typename P::Real(1.0) + (-x->value().matrix().array()).exp())).matrix();
    return tape.result(Tensor<P>(y), {x}, [x, y](const Tensor<P>& d_y) {
        const auto s = y.matrix().array();
        x->gradient().matrix().array() += d_y.matrix().array() * s * (1 - s);
    });
}

// The weights of the chosen experts: w_i = r s_i / sum s, d_s_i = r (d_w_i - sum_j d_w_j s_j / sum s) / sum s. The
// choice itself has no gradient, and so neither has the bias that joins it.
// scores: [T, E]  experts: [T, E_a]  -> [T, E_a]
template <class P>
Var<P> expert_weights(Tape<P>& tape, const Var<P>& scores, const Array<std::int32_t>& experts, const GateShape& shape,
                      const Conventions& conventions) {
    using Real = typename P::Real;
    Tensor<P> weights = expert_weights(Gate<P>{scores->value(), experts, {}}, shape, conventions);
    return tape.result(std::move(weights), {scores}, [scores, experts, shape, conventions](const Tensor<P>& d_w) {
        const Real r = P::constant(shape.route_scale);
        for (Index t = 0; t < experts.dim(0); ++t) {
            Real total = P::constant(conventions.router_eps);
            Real mean(0.0);
            for (Index i = 0; i < shape.active; ++i) total += scores->value()(t, experts(t, i));
            for (Index i = 0; i < shape.active; ++i) mean += d_w(t, i) * scores->value()(t, experts(t, i)) / total;
            for (Index i = 0; i < shape.active; ++i)
                scores->gradient()(t, experts(t, i)) +=
                    shape.normalise ? r * (d_w(t, i) - mean) / total : r * d_w(t, i);
        }
    });
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
                        const Var<P>& weights, Index D) {
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
    return tape.result(std::move(y), operands, [outs, visits, weights](const Tensor<P>& d_y) {
        for (std::size_t e = 0; e < outs.size(); ++e) {
            if (!outs[e]) continue;
            for (std::size_t v = 0; v < visits[e].size(); ++v) {
                const auto [t, i] = visits[e][v];
                const auto row = static_cast<Index>(v);
                if (weights->learns()) weights->gradient()(t, i) += (d_y.row(t) * outs[e]->value().row(row)).sum();
                if (outs[e]->learns()) outs[e]->gradient().row(row) += d_y.row(t) * weights->value()(t, i);
            }
        }
    });
}

// Mean of -log softmax(logits)[target] over the tokens that count;  d_logits = (softmax - onehot) / count.
// logits: [T, V]  targets: [T], negative where the token does not count  -> [1], in nats
template <class P>
Var<P> cross_entropy(Tape<P>& tape, const Var<P>& logits, const Array<std::int32_t>& targets) {
    using Real = typename P::Real;
    Index count = 0;
    for (Index t = 0; t < targets.size(); ++t) count += targets[t] >= 0 ? 1 : 0;
    const auto n = static_cast<Real>(std::max<Index>(1, count));
    Tensor<P> d_logits(logits->value().shape());
    Tensor<P> loss({1});
    for (Index t = 0; t < targets.size(); ++t) {
        if (targets[t] < 0) continue;
        const auto row = logits->value().row(t);
        const Real max = row.maxCoeff();
        d_logits.row(t) = (row - max).exp();
        const Real sum = d_logits.row(t).sum();
        d_logits.row(t) /= sum * n;
        d_logits(t, targets[t]) -= Real(1.0) / n;
        loss[0] -= (row(targets[t]) - max - log(sum)) / n;
    }
    return tape.result(std::move(loss), {logits}, [logits, d_logits](const Tensor<P>& d_loss) {
        logits->gradient().matrix() += d_logits.matrix() * d_loss[0];
    });
}

}  // namespace dsa
