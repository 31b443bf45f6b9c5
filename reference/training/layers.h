// The layers of the model on the tape: each with its gradient beside it. What they compute is what
// reference/attention and reference/moe compute; test_training.cpp holds the two against each other, and each
// gradient against differences.
//
// Weights lie as Hugging Face stores them, [out, in]. d_x stands for the gradient of the loss with respect to x.
// Stores to bf16 are those of a deployed kernel: activations and their gradients; a weight's gradient is kept in
// float32.
#pragma once

#include "reference/attention/hadamard.h"
#include "reference/attention/quantize.h"
#include "reference/attention/rope.h"
#include "reference/training/sums.h"

namespace dsa {

// A result as it is stored.
template <class P>
Tensor<P> stored(Tensor<P> y, Stored as = Stored::bf16) {
    if constexpr (std::is_same_v<P, Trained>) return y;
    return as == Stored::bf16 ? stored_as_bf16(std::move(y)) : y;
}

// y = x W^T;  d_x = d_y W,  d_W = d_y^T x.   x: [T, in]  W: [out, in]  -> [T, out]
template <class P>
Var<P> linear(Tape<P>& tape, const Var<P>& x, const Var<P>& W, Stored as = Stored::bf16) {
    Tensor<P> y({x->value().dim(0), W->value().dim(0)});
    set_product<P>(y.matrix(), x->value().matrix(), W->value().matrix().transpose());
    return tape.result(
        stored(std::move(y), as), {x, W},
        [x, W](const Tensor<P>& d_y) {
            if (x->learns()) add_product<P>(x->gradient().matrix(), d_y.matrix(), W->value().matrix());
            if (W->learns()) add_product<P>(W->gradient().matrix(), d_y.matrix().transpose(), x->value().matrix());
        },
        as);
}

// y = a + b, element by element
template <class P>
Var<P> add(Tape<P>& tape, const Var<P>& a, const Var<P>& b, Stored as = Stored::bf16) {
    Tensor<P> y = a->value();
    y.matrix() += b->value().matrix();
    return tape.result(
        stored(std::move(y), as), {a, b},
        [a, b](const Tensor<P>& d_y) {
            for (const Var<P>& operand : {a, b})
                if (operand->learns()) operand->gradient().matrix() += d_y.matrix();
        },
        as);
}

// Row tokens[t] of the table.   table: [V, D]  tokens: [T]  -> [T, D]
template <class P>
Var<P> embedding(Tape<P>& tape, const Var<P>& table, const Array<std::int32_t>& tokens) {
    Tensor<P> y({tokens.size(), table->value().dim(1)});
    for (Index t = 0; t < tokens.size(); ++t) y.row(t) = table->value().row(tokens[t]);
    return tape.result(stored(std::move(y)), {table}, [table, tokens](const Tensor<P>& d_y) {
        for (Index t = 0; t < tokens.size(); ++t) table->gradient().row(tokens[t]) += d_y.row(t);
    });
}

// n = x / rms(x), y = n * weight;  d_x = (g - n mean(g n)) / rms(x) with g = d_y * weight.   x: [T, D]  -> [T, D]
template <class P>
Var<P> rms_norm(Tape<P>& tape, const Var<P>& x, const Var<P>& weight, double eps) {
    using Real = typename P::Real;
    const Index T = x->value().rows();
    const auto D = static_cast<Real>(static_cast<double>(x->value().cols()));
    Tensor<P> y(x->value().shape());
    Tensor<P> inverse_rms({T});
    for (Index t = 0; t < T; ++t) {
        const auto row = x->value().row(t);
        inverse_rms[t] = Real(1.0) / sqrt(sum_of<P>(row.square()) / D + P::constant(eps));
        y.row(t) = row * inverse_rms[t] * weight->value().row(0);
    }
    return tape.result(stored(std::move(y)), {x, weight}, [x, weight, inverse_rms, D](const Tensor<P>& d_y) {
        for (Index t = 0; t < d_y.rows(); ++t) {
            const Eigen::Array<Real, 1, Eigen::Dynamic> n = x->value().row(t) * inverse_rms[t];
            const Eigen::Array<Real, 1, Eigen::Dynamic> g = d_y.row(t) * weight->value().row(0);
            if (x->learns()) x->gradient().row(t) += (g - n * (sum_of<P>(g * n) / D)) * inverse_rms[t];
            if (weight->learns()) weight->gradient().row(0) += d_y.row(t) * n;
        }
    });
}

// n = (x - mean) / deviation, y = n * weight + bias;  d_x = (g - mean(g) - n mean(g n)) / deviation.   x: [T, D]
template <class P>
Var<P> layer_norm(Tape<P>& tape, const Var<P>& x, const Var<P>& weight, const Var<P>& bias, double eps) {
    using Real = typename P::Real;
    const Index T = x->value().rows();
    const auto D = static_cast<Real>(static_cast<double>(x->value().cols()));
    Tensor<P> y(x->value().shape());
    Tensor<P> normal(x->value().shape());
    Tensor<P> inverse_deviation({T});
    for (Index t = 0; t < T; ++t) {
        const auto row = x->value().row(t);
        normal.row(t) = row - sum_of<P>(row) / D;
        inverse_deviation[t] = Real(1.0) / sqrt(sum_of<P>(normal.row(t).square()) / D + P::constant(eps));
        normal.row(t) *= inverse_deviation[t];
        y.row(t) = normal.row(t) * weight->value().row(0) + bias->value().row(0);
    }
    return tape.result(stored(std::move(y)), {x, weight, bias},
                       [x, weight, bias, normal, inverse_deviation, D](const Tensor<P>& d_y) {
                           for (Index t = 0; t < d_y.rows(); ++t) {
                               const auto n = normal.row(t);
                               const Eigen::Array<Real, 1, Eigen::Dynamic> g = d_y.row(t) * weight->value().row(0);
                               if (x->learns())
                                   x->gradient().row(t) +=
                                       (g - sum_of<P>(g) / D - n * (sum_of<P>(g * n) / D)) * inverse_deviation[t];
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

// y = x * factor, kept in float32
template <class P>
Var<P> scaled(Tape<P>& tape, const Var<P>& x, double factor) {
    const auto f = P::constant(factor);
    Tensor<P> y = x->value();
    y.matrix() *= f;
    return tape.result(
        std::move(y), {x}, [x, f](const Tensor<P>& d_y) { x->gradient().matrix() += d_y.matrix() * f; },
        Stored::float32);
}

// Mean of -log softmax(logits)[target] over the tokens that count;  d_logits = (softmax - onehot) / count.
// logits: [T, V]  targets: [T], negative where the token does not count  -> [1], in nats
template <class P>
Var<P> cross_entropy(Tape<P>& tape, const Var<P>& logits, const Array<std::int32_t>& targets) {
    using Real = typename P::Real;
    Index count = 0;
    for (Index t = 0; t < targets.size(); ++t) count += targets[t] >= 0 ? 1 : 0;
    const auto n = static_cast<Real>(static_cast<double>(std::max<Index>(1, count)));
    Tensor<P> d_logits(logits->value().shape());
    Tensor<P> loss({1});
    for (Index t = 0; t < targets.size(); ++t) {
        if (targets[t] < 0) continue;
        d_logits.row(t) = logits->value().row(t);
        const auto [max, sum] = exponentials_in_place<P>(d_logits.row(t));
        d_logits.row(t) /= sum * n;
        d_logits(t, targets[t]) -= Real(1.0) / n;
        loss[0] -= (logits->value()(t, targets[t]) - max - log(sum)) / n;
    }
    return tape.result(
        std::move(loss), {logits},
        [logits, d_logits](const Tensor<P>& d_loss) { logits->gradient().matrix() += d_logits.matrix() * d_loss[0]; },
        Stored::float32);
}

}  // namespace dsa
