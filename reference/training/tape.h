// How does a gradient find its way back through a whole model? Each operation, as it runs forward, leaves on a tape
// the step that takes the gradient of its result to the gradients of its operands; the tape is played backwards.
// The chain rule, and nothing else. (Linnainmaa 1970; Griewank and Walther, "Evaluating Derivatives", chapter 3.)
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "reference/numerics/precision.h"

namespace dsa {

// Training's numbers: float32 and no rounding beyond it (spec section 7: training uses unquantised scores). Exact is
// its counterpart in float64, in which gradients are compared with finite differences.
struct Trained {
    using Real = float;
    static constexpr bool quantises = true;

    static float constant(double x) { return static_cast<float>(x); }
    static float bf16(float x) { return x; }
    static float bf16_at_any_scale(float x) { return x; }
    static float e4m3(float x, float scale) { return to_float(to_e4m3(x / scale)); }
    static float shift(float x) { return x; }
};

// A tensor on the tape, and the gradient of the loss with respect to it.
template <class P>
class Node {
   public:
    Node(Tensor<P> value, bool learns) : value_(std::move(value)), learns_(learns) {}

    const Tensor<P>& value() const { return value_; }
    // Whether anything that learns lies behind it: if not, no gradient is computed.
    bool learns() const { return learns_; }
    bool has_gradient() const { return !gradient_.shape().empty(); }
    // Zeros until something is added.
    Tensor<P>& gradient() {
        if (!has_gradient()) gradient_ = Tensor<P>(value_.shape());
        return gradient_;
    }

   private:
    Tensor<P> value_;
    Tensor<P> gradient_;
    bool learns_;
};

template <class P>
using Var = std::shared_ptr<Node<P>>;

template <class P>
class Tape {
   public:
    // A tensor from outside: a parameter (learns) or an input (does not).
    Var<P> leaf(Tensor<P> value, bool learns) const { return std::make_shared<Node<P>>(std::move(value), learns); }

    // A result of `operands`. back(dy) adds to their gradients; it is not called where no gradient arrives.
    template <class Back>
    Var<P> result(Tensor<P> value, const std::vector<Var<P>>& operands, Back back) {
        bool learns = false;
        for (const auto& operand : operands) learns = learns || operand->learns();
        auto node = std::make_shared<Node<P>>(std::move(value), learns);
        if (learns)
            steps_.push_back([node, back = std::move(back)] {
                if (node->has_gradient()) back(node->gradient());
            });
        return node;
    }

    // loss: [1]
    void backward(const Var<P>& loss) {
        loss->gradient()[0] = typename P::Real(1.0);
        for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) (*step)();
        steps_.clear();
    }

   private:
    std::vector<std::function<void()>> steps_;
};

// The same numbers, through which no gradient passes: what keeps the indexer's loss out of the main model.
template <class P>
Var<P> detached(const Var<P>& x) {
    return std::make_shared<Node<P>>(x->value(), false);
}

}  // namespace dsa
