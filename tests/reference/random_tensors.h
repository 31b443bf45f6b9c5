// Tensors for tests, from the counter-based generator: the same in every tier.
#pragma once

#include <initializer_list>
#include <string_view>

#include "reference/cases/fill.h"
#include "reference/numerics/philox.h"
#include "reference/numerics/precision.h"
#include "reference/numerics/weight.h"

namespace dsa {

// Bell-shaped numbers, rounded to bf16, so that Exact and Deployed hold the same ones.
inline Array<float> random_array(const Shape& shape, std::string_view name, double std = 1.0, double mean = 0.0) {
    Array<float> x(shape);
    const RandomTensor random{99, tensor_id(name)};
    const float constant = bell_constant(std);
    for (Index i = 0; i < x.size(); ++i)
        x[i] =
            through_bfloat16(bell_sample(random, constant, static_cast<std::uint64_t>(i)) + static_cast<float>(mean));
    return x;
}

template <class P>
Tensor<P> as_tensor(const Array<float>& x) {
    Tensor<P> y(x.shape());
    for (Index i = 0; i < x.size(); ++i) y[i] = typename P::Real(static_cast<double>(x[i]));
    return y;
}

template <class P>
Tensor<P> random_tensor(const Shape& shape, std::string_view name, double std = 1.0) {
    return as_tensor<P>(random_array(shape, name, std));
}

inline Weight random_weight(const Shape& shape, std::string_view name, double std) {
    return Weight(std::string(name), random_array(shape, name, std));
}

// The largest difference between two tensors of one shape; NaN if there is one.
template <class A, class B>
double largest_difference(const A& a, const B& b) {
    if (a.shape() != b.shape()) return std::numeric_limits<double>::infinity();
    double largest = 0.0;
    for (Index i = 0; i < a.size(); ++i) {
        const double x = value_of(a[i]);
        const double y = value_of(b[i]);
        if (x == y) continue;  // infinities too
        const double difference = std::fabs(x - y);
        if (!(difference <= largest)) largest = difference;
    }
    return largest;
}

template <class A>
double largest_magnitude(const A& a) {
    double largest = 0.0;
    for (Index i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(value_of(a[i])));
    return largest;
}

// float64's unit: half a step, relative.
inline constexpr double float64_unit = 0x1p-53;

inline Array<std::int32_t> integers(std::initializer_list<std::int32_t> values) {
    return {{static_cast<Index>(values.size())}, std::vector<std::int32_t>(values)};
}

inline Array<std::int32_t> counting_positions(Index T, std::int32_t first = 0) {
    Array<std::int32_t> positions({T});
    for (Index t = 0; t < T; ++t) positions[t] = first + static_cast<std::int32_t>(t);
    return positions;
}

}  // namespace dsa
