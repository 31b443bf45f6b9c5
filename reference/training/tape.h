// How does a gradient find its way back through a whole model? Each operation, as it runs forward, leaves on a tape
// the step that takes the gradient of its result to the gradients of its operands; the tape is played backwards.
// The chain rule, and nothing else. (Linnainmaa 1970; Griewank and Walther, "Evaluating Derivatives", chapter 3.)
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "reference/conventions.h"
#include "reference/numerics/precision.h"
#include "reference/trace.h"

namespace dsa {

// Training's numbers: float32, no rounding beyond it (spec section 7: training uses unquantised scores), and sums in
// whatever order is fast (sums.h). Exact is its counterpart in float64, in which gradients are compared with finite
// differences; Deployed is what a kernel computes that stores activations and their gradients as bf16.
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
    // Makes of a complete gradient what the steps before work on.
    using Finish = std::function<Tensor<P>(Tensor<P>)>;

    Node(Tensor<P> value, bool learns) : value_(std::move(value)), learns_(learns) {}

    const Tensor<P>& value() const { return value_; }
    void set_value(Tensor<P> value) { value_ = std::move(value); }
    // Whether anything that learns lies behind it: if not, no gradient is computed.
    bool learns() const { return learns_; }
    bool has_gradient() const { return !gradient_.shape().empty(); }
    // Zeros until something is added.
    Tensor<P>& gradient() {
        if (!has_gradient()) gradient_ = Tensor<P>(value_.shape());
        return gradient_;
    }
    void set_finish(Finish finish) { finish_ = std::move(finish); }
    // Everything that uses this tensor has added its part.
    const Tensor<P>& complete_gradient() {
        if (finish_) gradient_ = finish_(std::move(gradient_));
        return gradient_;
    }

   private:
    Tensor<P> value_;
    Tensor<P> gradient_;
    Finish finish_;
    bool learns_;
};

template <class P>
using Var = std::shared_ptr<Node<P>>;

template <class P>
class Tape {
   public:
    Tape() = default;
    // Shows every stage, and its gradient on the way back.
    explicit Tape(Trace trace) : trace_(std::move(trace)) {}

    // A tensor from outside: a parameter (learns) or an input (does not).
    Var<P> leaf(Tensor<P> value, bool learns) const { return std::make_shared<Node<P>>(std::move(value), learns); }

    // A result of `operands`. back(dy), or back(dy, y), adds to their gradients; it is not called where no gradient
    // arrives. `gradient`: what a deployed implementation stores dy as, once all its parts are added in float32.
    template <class Back>
    Var<P> result(Tensor<P> value, const std::vector<Var<P>>& operands, Back back, Stored gradient = Stored::bf16) {
        bool learns = false;
        for (const auto& operand : operands) learns = learns || operand->learns();
        auto node = std::make_shared<Node<P>>(std::move(value), learns);
        if constexpr (!std::is_same_v<P, Trained>)
            if (gradient == Stored::bf16)
                node->set_finish([](Tensor<P> dy) { return stored_as_bf16(std::move(dy)); });
        if (learns)
            steps_.push_back([node, back = std::move(back)] {
                if (!node->has_gradient()) return;
                const Tensor<P>& dy = node->complete_gradient();
                if constexpr (std::is_invocable_v<Back, const Tensor<P>&, const Tensor<P>&>)
                    back(dy, node->value());
                else
                    back(dy);
            });
        return node;
    }

    // Shows x as SCOPE.NAME and its gradient as SCOPE.d_NAME, both in `dtype`; what comes back from the trace in
    // their place is what the next steps work on (reference/trace.h). A training's tape has no trace, and shows
    // nothing.
    Var<P> stage(const std::string& scope, const std::string& name, const Var<P>& x,
                 DType dtype = DType::bfloat16) const {
        if (!trace_) return x;
        const Trace inside = trace_->inside(scope);
        x->set_value(inside.pass(name, x->value(), dtype));
        x->set_finish([inside, name, dtype](Tensor<P> dx) {
            if (dtype == DType::bfloat16) dx = stored_as_bf16(std::move(dx));
            return inside.pass("d_" + name, std::move(dx), dtype);
        });
        return x;
    }

    // The same for what has no gradient: a choice, or a float32 tensor.
    Array<std::int32_t> choice(const std::string& scope, const std::string& name, Array<std::int32_t> x) const {
        if (trace_) x = trace_->inside(scope).pass(name, std::move(x));
        return x;
    }
    Tensor<P> shown(const std::string& scope, const std::string& name, Tensor<P> x) const {
        if (trace_) x = trace_->inside(scope).pass(name, std::move(x), DType::float32);
        return x;
    }

    // The gradients of everything that y is made of, from that of y, which is given as it is stored.
    void backward(const Var<P>& y, const Tensor<P>& dy) {
        y->gradient() = dy;
        y->set_finish(nullptr);
        for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) (*step)();
        steps_.clear();
    }
    // loss: [1]
    void backward(const Var<P>& loss) { backward(loss, Tensor<P>({1}, typename P::Real(1.0))); }

   private:
    std::optional<Trace> trace_;
    std::vector<std::function<void()>> steps_;
};

// The same numbers, through which no gradient passes: what keeps the indexer's loss out of the main model.
template <class P>
Var<P> detached(const Var<P>& x) {
    return std::make_shared<Node<P>>(x->value(), false);
}

}  // namespace dsa
