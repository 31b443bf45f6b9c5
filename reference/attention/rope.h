// How does attention know where a token stands? Pairs of numbers are rotated by an angle that grows with
// the position; a product of two rotated vectors depends on the distance alone. YaRN slows the slow
// rotations down so that contexts longer than the training's stay within known angles.
// Su et al., arXiv 2104.09864; Peng et al., arXiv 2309.00071; spec section 2.
#pragma once

#include <algorithm>
#include <vector>

#include "reference/conventions.h"
#include "reference/numerics/precision.h"

namespace dsa {

struct RopeParameters {
    double theta = 10000.0;
    double factor = 40.0;     // YaRN: how many times longer than the original context
    double beta_fast = 32.0;  // rotations over the original context above which a pair keeps its frequency
    double beta_slow = 1.0;   // ... and below which it is slowed by the whole factor
    Index original_context = 4096;
    Index max_context = 163840;
    double mscale = 1.0;

    bool uses_yarn() const { return max_context > original_context && factor > 1.0; }
};

// Radians a position for each pair. -> [d_rope / 2]
inline std::vector<double> rope_frequencies(const RopeParameters& p, Index d_rope) {
    constexpr double pi = 0x1.921fb54442d18p1;
    const double ln_theta = elementary::log(p.theta);
    const auto d = static_cast<double>(d_rope);
    // The (fractional) pair number, times two, at which `rotations` turns fill the original context.
    const auto correction_dim = [&](double rotations) {
        return d * elementary::log(static_cast<double>(p.original_context) / (2.0 * pi * rotations)) /
               (2.0 * ln_theta);
    };
    const double low = std::clamp(std::floor(correction_dim(p.beta_fast)), 0.0, d - 1.0);
    double high = std::clamp(std::ceil(correction_dim(p.beta_slow)), 0.0, d - 1.0);
    if (high == low) high += 0.001;  // a step instead of a ramp, without dividing by zero

    std::vector<double> frequencies(static_cast<std::size_t>(d_rope / 2));
    for (std::size_t i = 0; i < frequencies.size(); ++i) {
        const auto pair = static_cast<double>(i);
        double& f = frequencies[i];
        f = elementary::exp(-2.0 * pair / d * ln_theta);
        if (p.uses_yarn()) {
            const double ramp = std::clamp((pair - low) / (high - low), 0.0, 1.0);
            f = f / p.factor * ramp + f * (1.0 - ramp);
        }
    }
    return frequencies;
}

// YaRN's correction of the softmax temperature, m = 0.1 mscale ln(factor) + 1; 1 without YaRN.
inline double yarn_mscale(const RopeParameters& p) {
    return p.uses_yarn() ? 0.1 * p.mscale * elementary::log(p.factor) + 1.0 : 1.0;
}

// MLA's softmax scale: (d_nope + d_rope)^-0.5 * m^2. V3.2: 0.1352337788608801.
inline double softmax_scale(const RopeParameters& p, Index d_nope, Index d_rope) {
    const double m = yarn_mscale(p);
    return m * m / std::sqrt(static_cast<double>(d_nope + d_rope));
}

// Cosines and sines for the tokens of one call.
template <class P>
class Rope {
   public:
    using Real = typename P::Real;

    // positions: [T], each from 0 to 2^22
    Rope(const RopeParameters& parameters, Index d_rope, const Array<std::int32_t>& positions)
        : cosine_({positions.size(), d_rope / 2}), sine_({positions.size(), d_rope / 2}) {
        require(d_rope % 2 == 0, "rope turns pairs: the rotated size must be even; got ", d_rope);
        const std::vector<double> frequencies = rope_frequencies(parameters, d_rope);
        for (Index t = 0; t < positions.size(); ++t) {
            require(positions[t] >= 0 && positions[t] <= (1 << 22), "positions[", t, "] must be between 0 and ",
                    1 << 22, "; got ", positions[t]);
            for (Index i = 0; i < d_rope / 2; ++i) {
                const Real angle = Real(positions[t]) * P::constant(frequencies[static_cast<std::size_t>(i)]);
                std::tie(cosine_(t, i), sine_(t, i)) = cos_sin(angle);
            }
        }
    }

    // Turns the pairs of one token's vector of d_rope numbers: pair i is (2i, 2i + 1) interleaved, or
    // (i, i + d_rope / 2) half-split. The result keeps the pairs where they were, or puts them as
    // `output` says (scores do not change, as long as queries and keys agree).
    template <class Row>
    void rotate(Row&& row, Index t, RopeLayout layout, RopeLayout output) const {
        const Eigen::Array<Real, 1, Eigen::Dynamic> x = row;
        for (Index i = 0; i < cosine_.dim(1); ++i) {
            const Real a = x(first(i, layout));
            const Real b = x(second(i, layout));
            row(first(i, output)) = P::bf16(a * cosine_(t, i) - b * sine_(t, i));
            row(second(i, output)) = P::bf16(a * sine_(t, i) + b * cosine_(t, i));
        }
    }
    template <class Row>
    void rotate(Row&& row, Index t, RopeLayout layout) const {
        rotate(row, t, layout, layout);
    }

    // The gradient's way back: a rotation's transpose, by the same angle the other way round. row: the gradient of
    // what rotate() gave  -> that of what it was given
    template <class Row>
    void rotate_back(Row&& row, Index t, RopeLayout layout) const {
        for (Index i = 0; i < cosine_.dim(1); ++i) {
            const Real a = row(first(i, layout));
            const Real b = row(second(i, layout));
            row(first(i, layout)) = a * cosine_(t, i) + b * sine_(t, i);
            row(second(i, layout)) = b * cosine_(t, i) - a * sine_(t, i);
        }
    }

   private:
    // Where the two numbers of pair i lie.
    Index first(Index i, RopeLayout layout) const { return layout == RopeLayout::interleaved ? 2 * i : i; }
    Index second(Index i, RopeLayout layout) const {
        return layout == RopeLayout::interleaved ? 2 * i + 1 : i + cosine_.dim(1);
    }

    Tensor<P> cosine_;  // [T, d_rope / 2]
    Tensor<P> sine_;    // [T, d_rope / 2]
};

// x: [T, N, d_rope]  positions: [T]  y: [T, N, d_rope]
template <class P>
Tensor<P> rope(Tensor<P> x, const Array<std::int32_t>& positions, const RopeParameters& parameters, RopeLayout layout,
               RopeLayout output) {
    require(x.rank() == 3 && x.dim(0) == positions.size(),
            "rope: x must be [T, N, d_rope] with T = ", positions.size(), " positions; it is ", to_string(x.shape()));
    const Rope<P> turn(parameters, x.dim(2), positions);
    for (Index t = 0; t < x.dim(0); ++t)
        for (Index n = 0; n < x.dim(1); ++n) turn.rotate(x.row(t, n), t, layout, output);
    return x;
}

}  // namespace dsa
