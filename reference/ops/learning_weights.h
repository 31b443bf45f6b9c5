// The contract's weights, [in, out] and stacked, as the tape has them, [out, in] one by one; and their gradients
// back.
#pragma once

#include <string>
#include <vector>

#include "reference/ops/inputs.h"
#include "reference/training/forward.h"

namespace dsa {

// Where the matrix `number` of a stack [..., K, N] lies among the tape's parameters: its column n is the row
// `first_row + n / group * stride + n % group` of `parameter`.
struct WeightPlace {
    std::string tensor;
    Index number;
    std::string parameter;
    Index K, N;
    Index group = 0;  // 0: all N together
    Index stride = 0;
    Index first_row = 0;

    Index of_parameter(Index k, Index n) const {
        const Index row = group == 0 ? n : first_row + n / group * stride + n % group;
        return row * K + k;
    }
    Index of_stack(Index k, Index n) const { return (number * K + k) * N + n; }
};

template <class P>
void copy_to_parameter(const Tensor<P>& stack, const WeightPlace& place, Tensor<P>& parameter) {
    for (Index k = 0; k < place.K; ++k)
        for (Index n = 0; n < place.N; ++n) parameter[place.of_parameter(k, n)] = stack[place.of_stack(k, n)];
}

template <class P>
void copy_to_stack(const Tensor<P>& parameter, const WeightPlace& place, Tensor<P>& stack) {
    for (Index k = 0; k < place.K; ++k)
        for (Index n = 0; n < place.N; ++n) stack[place.of_stack(k, n)] = parameter[place.of_parameter(k, n)];
}

// The weights of mixture number `layer` of a stack of them. D, E, F, F_s: width, experts, an expert's and the shared
// one's inner width
inline std::vector<WeightPlace> mixture_places(Index layer, const std::string& prefix, Index D, Index E, Index F,
                                               Index F_s) {
    std::vector<WeightPlace> places{{"W_g", layer, prefix + "gate.weight", D, E}};
    for (Index e = 0; e < E; ++e) {
        const std::string expert = prefix + "experts." + std::to_string(e) + ".";
        places.push_back({"W_gate", layer * E + e, expert + "gate_proj.weight", D, F});
        places.push_back({"W_up", layer * E + e, expert + "up_proj.weight", D, F});
        places.push_back({"W_down", layer * E + e, expert + "down_proj.weight", F, D});
    }
    places.push_back({"shared_W_gate", layer, prefix + "shared_experts.gate_proj.weight", D, F_s});
    places.push_back({"shared_W_up", layer, prefix + "shared_experts.up_proj.weight", D, F_s});
    places.push_back({"shared_W_down", layer, prefix + "shared_experts.down_proj.weight", F_s, D});
    return places;
}

}  // namespace dsa
