// Which experts does a token visit? Scores by sigmoid, a bias that balances the load joining the choice but
// never the weights, and a choice in two steps: groups of experts first, experts second.
// DeepSeek-V3 report (arXiv 2412.19437), section 2.1.2; spec section 6.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "reference/conventions.h"
#include "reference/numerics/ordered.h"

namespace dsa {

struct GateShape {
    Index groups = 8;  // G
    Index kept_groups = 4;
    Index active = 8;  // E_a
    double route_scale = 2.5;
    bool normalise = true;  // divide by the sum of the chosen scores
};

template <class P>
struct Gate {
    Tensor<P> scores;             // [T, E] = sigmoid(x W_g)
    Array<std::int32_t> experts;  // [T, E_a], best first
    Tensor<P> weights;            // [T, E_a]
};

// The `count` best of `candidates`, best first; equal scores by the lower number.
template <class Score>
std::vector<Index> best(std::vector<Index> candidates, Index count, const Score& score) {
    std::stable_sort(candidates.begin(), candidates.end(), [&](Index a, Index b) { return score(a) > score(b); });
    candidates.resize(static_cast<std::size_t>(count));
    return candidates;
}

inline std::vector<Index> counting(Index first, Index count) {
    std::vector<Index> numbers(static_cast<std::size_t>(count));
    std::iota(numbers.begin(), numbers.end(), first);
    return numbers;
}

// Each chosen expert's score over their sum, times the route scale. The bias has no part in it. -> [T, E_a]
template <class P>
Tensor<P> expert_weights(const Gate<P>& gate, const GateShape& shape, const Conventions& conventions) {
    using Real = typename P::Real;
    Tensor<P> weights(gate.experts.shape());
    for (Index t = 0; t < gate.experts.dim(0); ++t) {
        Real total = P::constant(conventions.router_eps);
        for (Index i = 0; i < shape.active; ++i) total += gate.scores(t, gate.experts(t, i));
        for (Index i = 0; i < shape.active; ++i) {
            const Real score = gate.scores(t, gate.experts(t, i));
            weights(t, i) = (shape.normalise ? score / total : score) * P::constant(shape.route_scale);
        }
    }
    return weights;
}

// The choice, made on biased scores, compared as this tier holds them. bias: [E], ignored where the convention says
// there is none.   scores: [T, E]  -> [T, E_a], best first
template <class P>
Array<std::int32_t> chosen_experts(const Tensor<P>& scores, const Array<float>& bias, const GateShape& shape,
                                   const Conventions& conventions) {
    using Real = typename P::Real;
    const Index T = scores.dim(0);
    const Index E = scores.dim(1);
    const Index group_size = E / shape.groups;
    require(E % shape.groups == 0, "moe_gate: ", E, " experts do not divide into ", shape.groups, " groups");
    require(shape.kept_groups <= shape.groups && shape.active <= shape.kept_groups * group_size,
            "moe_gate: ", shape.active, " active experts cannot come from ", shape.kept_groups, " of ", shape.groups,
            " groups of ", group_size);
    require(!conventions.gate_bias || bias.size() == E, "moe_gate: bias must have one number an expert, ", E,
            "; it has ", bias.size());
    Array<std::int32_t> experts({T, shape.active});
    for (Index t = 0; t < T; ++t) {
        std::vector<double> biased(static_cast<std::size_t>(E));
        for (Index e = 0; e < E; ++e) {
            const Real b = conventions.gate_bias ? scores(t, e) + Real(bias[e]) : scores(t, e);
            biased[static_cast<std::size_t>(e)] = value_of(b);
        }
        const auto expert_score = [&](Index e) { return biased[static_cast<std::size_t>(e)]; };
        // A group is as good as its two best experts together; without a bias, as its best one.
        const auto group_score = [&](Index g) {
            const Index counted = conventions.gate_bias ? std::min<Index>(2, group_size) : 1;
            double score = 0.0;
            for (const Index e : best(counting(g * group_size, group_size), counted, expert_score))
                score += expert_score(e);
            return score;
        };
        std::vector<Index> candidates;
        std::vector<Index> groups = best(counting(0, shape.groups), shape.kept_groups, group_score);
        std::sort(groups.begin(), groups.end());  // so that equal experts still go to the lower number
        for (const Index g : groups)
            for (const Index e : counting(g * group_size, group_size)) candidates.push_back(e);
        const std::vector<Index> chosen = best(candidates, shape.active, expert_score);

        for (Index i = 0; i < shape.active; ++i)
            experts(t, i) = static_cast<std::int32_t>(chosen[static_cast<std::size_t>(i)]);
    }
    return experts;
}

// x: [T, D]  W_g: [D, E]  bias: [E]
template <class P>
Gate<P> moe_gate(const Tensor<P>& x, const Weight& W_g, const Array<float>& bias, const GateShape& shape,
                 const Conventions& conventions) {
    Gate<P> gate{matmul(x, W_g), {}, {}};
    for (Index i = 0; i < gate.scores.size(); ++i) gate.scores[i] = sigmoid(gate.scores[i]);
    gate.experts = chosen_experts(gate.scores, bias, shape, conventions);
    gate.weights = expert_weights(gate, shape, conventions);
    return gate;
}

}  // namespace dsa
