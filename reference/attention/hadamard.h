// How are outliers spread before quantisation? Queries and keys are both multiplied by the same orthonormal
// matrix of signs: their product does not change, but no single coordinate stays large.
// Walsh-Hadamard matrix in natural (Sylvester) order, H_2n = [[H_n, H_n], [H_n, -H_n]], over sqrt(n).
#pragma once

#include "reference/numerics/precision.h"

namespace dsa {

// y = x H / sqrt(n), n a power of two, computed in float32, stored as bf16.
// x: [..., n]  y: [..., n]
template <class P>
Tensor<P> hadamard(Tensor<P> x) {
    using Real = typename P::Real;
    const Index n = x.cols();
    require(n > 0 && (n & (n - 1)) == 0, "hadamard: the last axis must be a power of two; got ", n);
    const Real scale = P::constant(1.0 / std::sqrt(static_cast<double>(n)));
    for (Index t = 0; t < x.rows(); ++t) {
        auto row = x.row(t);
        // log2 n rounds of sums and differences of elements `distance` apart.
        for (Index distance = 1; distance < n; distance *= 2)
            for (Index i = 0; i < n; ++i) {
                if ((i & distance) != 0) continue;
                const Real a = row(i);
                const Real b = row(i + distance);
                row(i) = a + b;
                row(i + distance) = a - b;
            }
        for (Index i = 0; i < n; ++i) row(i) = P::bf16(row(i) * scale);
    }
    return x;
}

}  // namespace dsa
