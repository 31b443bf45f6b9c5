// How do the gradients move the weights? AdamW (Loshchilov and Hutter, arXiv 1711.05101) with the norm of all
// gradients clipped, and a learning rate that warms up, stays, and falls along a cosine. DeepSeek-V3 report,
// section 4.2.
#pragma once

#include <cmath>

#include "reference/training/forward.h"

namespace dsa {

struct AdamWSettings {
    double beta_1 = 0.9;
    double beta_2 = 0.95;
    double epsilon = 1e-8;
    double weight_decay = 0.1;  // of matrices; norms and biases do not decay
    double clip = 1.0;          // the largest norm of the gradients, main model and indexer each
};

struct Schedule {
    double learning_rate = 1e-3;
    std::int64_t steps = 1;
    std::int64_t warm_up = 0;  // steps of linear growth
    double decay_from = 0.0;   // the share of the steps after which the cosine begins; 1: no decay
    double decay_to = 0.1;     // the last rate, as a share of the full one

    // step: from 0
    double at(std::int64_t step) const {
        if (step < warm_up) return learning_rate * static_cast<double>(step + 1) / static_cast<double>(warm_up);
        const double begin = std::max(static_cast<double>(warm_up), decay_from * static_cast<double>(steps));
        const double length = static_cast<double>(steps) - begin;
        if (!(static_cast<double>(step) > begin) || !(length > 0.0)) return learning_rate;
        const double way = std::min(1.0, (static_cast<double>(step) - begin) / length);
        return learning_rate *
               (decay_to + (1.0 - decay_to) * 0.5 * (1.0 + elementary::sin_cos(way * 0x1.921fb54442d18p1).second));
    }
};

// {of the main model, of the indexer}
template <class P>
std::pair<double, double> gradient_norms(const Parameters<P>& gradients) {
    double main = 0.0;
    double indexer = 0.0;
    for (const auto& [name, g] : gradients)
        (belongs_to_indexer(name) ? indexer : main) += g.matrix().template cast<double>().squaredNorm();
    return {std::sqrt(main), std::sqrt(indexer)};
}

// m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w -= rate (m^ / (sqrt(v^) + eps) + decay w),
// m^ and v^ being m / (1 - b1^n) and v / (1 - b2^n) after n steps.
template <class P>
class AdamW {
   public:
    explicit AdamW(AdamWSettings settings) : settings_(settings) {}

    // -> the gradients' norms before clipping, of the main model and of the indexer
    std::pair<double, double> step(Parameters<P>& parameters, const Parameters<P>& gradients, double main_rate,
                                   double indexer_rate) {
        using Real = typename P::Real;
        ++steps;
        const auto [main_norm, indexer_norm] = gradient_norms(gradients);
        const auto n = static_cast<double>(steps);
        const double correction_1 = 1.0 - std::pow(settings_.beta_1, n);
        const double correction_2 = 1.0 - std::pow(settings_.beta_2, n);
        for (const auto& [name, gradient] : gradients) {
            Tensor<P>& w = parameters.at(name);
            Tensor<P>& m = first.try_emplace(name, w.shape()).first->second;
            Tensor<P>& v = second.try_emplace(name, w.shape()).first->second;
            const double norm = belongs_to_indexer(name) ? indexer_norm : main_norm;
            const auto clip = P::constant(norm > settings_.clip ? settings_.clip / norm : 1.0);
            const double rate = belongs_to_indexer(name) ? indexer_rate : main_rate;
            const auto b1 = P::constant(settings_.beta_1);
            const auto b2 = P::constant(settings_.beta_2);
            const auto g = gradient.matrix().array() * clip;
            m.matrix().array() = m.matrix().array() * b1 + g * (Real(1.0) - b1);
            v.matrix().array() = v.matrix().array() * b2 + g.square() * (Real(1.0) - b2);
            const double decay = w.rank() > 1 ? settings_.weight_decay : 0.0;
            w.matrix().array() -=
                P::constant(rate) * (m.matrix().array() * P::constant(1.0 / correction_1) /
                                         ((v.matrix().array() * P::constant(1.0 / correction_2)).sqrt() +
                                          P::constant(settings_.epsilon)) +
                                     P::constant(decay) * w.matrix().array());
        }
        return {main_norm, indexer_norm};
    }

    std::int64_t steps = 0;
    Parameters<P> first;   // m
    Parameters<P> second;  // v

   private:
    AdamWSettings settings_;
};

// Balance without a loss: after each step, an expert that had more than its share becomes less likely to be chosen,
// and one that had less more likely, by a fixed `speed`. DeepSeek-V3 report, section 2.1.2. visits: [E], of the whole
// batch
template <class P>
void balance(Tensor<P>& bias, const std::vector<std::int64_t>& visits, double speed) {
    std::int64_t total = 0;
    for (const std::int64_t v : visits) total += v;
    const auto E = static_cast<std::int64_t>(visits.size());
    for (std::size_t e = 0; e < visits.size(); ++e) {
        const std::int64_t over = visits[e] * E - total;
        bias[static_cast<Index>(e)] -= P::constant(over > 0 ? speed : over < 0 ? -speed : 0.0);
    }
}

}  // namespace dsa
