// The one way in which a stage shows a tensor to the outside.
//
// A formula says `c_q = trace.pass("c_q", c_q, DType::bfloat16)` where c_q exists anyway. Whoever listens (the
// golden writer, the notebook, a test, the first-divergence search) gets name, dtype, numbers and, in the
// bounds tier, the errors of each. With nobody listening, showing costs nothing; nothing is ever computed in
// order to be shown.
//
// What comes back is what the next stage works on: the tensor itself or, where a record is followed, the
// recorded one of that name. Following a deployed run's choices (selected tokens, chosen experts) keeps the
// tiers comparable where two scores were too close to call; following all of its stages judges each stage by
// itself, on the inputs that it had. docs/08-precision-and-bounds.md.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "reference/dtype.h"
#include "reference/numerics/precision.h"

namespace dsa {

struct Shown {
    std::string name;     // "layer_1.indexer_logits"
    StoredTensor tensor;  // float64 in the exact tiers; the contract's dtype in Deployed
    // In the bounds tier, how far off a deployed result may be: from the exact one, and from another deployed one.
    std::optional<Array<double>> error = {};
    std::optional<Array<double>> deployed_error = {};
    // A quantised tensor's numbers are in units of a scale, which the exact tiers do not have: the name of the
    // tensor to multiply by before comparing tiers, or "1/NAME" to divide by. Empty: none.
    std::string scale = {};
};

class Trace {
   public:
    using Listener = std::function<void(const Shown&)>;
    using Followed = std::map<std::string, StoredTensor>;  // by full name

    Trace() = default;
    explicit Trace(Listener listener, std::shared_ptr<const Followed> followed = nullptr)
        : listener_(std::move(listener)), followed_(std::move(followed)) {}

    // The same listener under a longer name: trace.inside("layer_1").pass("c_q", ...) is "layer_1.c_q".
    Trace inside(const std::string& scope) const {
        Trace inner(*this);
        if (!scope.empty()) inner.prefix_ = prefix_ + scope + ".";
        return inner;
    }

    // `deployed_dtype`: what a deployed implementation stores this tensor as.
    template <class P>
    Tensor<P> pass(const std::string& name, Tensor<P> tensor, DType deployed_dtype,
                   const std::string& scale = "") const {
        show(name, tensor, deployed_dtype, scale);
        return followed(name, std::move(tensor));
    }

    // A quantiser's scales: shown where there are any, which is in Deployed.
    template <class P>
    Tensor<P> pass_scale(const std::string& name, Tensor<P> tensor) const {
        if (P::quantises) show(name, tensor, DType::float32, "");
        return followed(name, std::move(tensor));
    }

    // A choice: positions, experts.
    Array<std::int32_t> pass(const std::string& name, Array<std::int32_t> choice) const {
        if (listener_) listener_({.name = prefix_ + name, .tensor = store(choice)});
        if (const StoredTensor* recorded = find(name, choice.shape()))
            for (Index i = 0; i < choice.size(); ++i) choice[i] = recorded->raw<std::int32_t>(i);
        return choice;
    }

    // Bytes with one right answer.
    void show(const std::string& name, const Array<std::uint8_t>& bytes) const {
        if (listener_) listener_({.name = prefix_ + name, .tensor = store(bytes)});
    }

    // An output: nothing works on it any more.
    template <class P>
    void show(const std::string& name, const Tensor<P>& tensor, DType deployed_dtype,
              const std::string& scale = "") const;

   private:
    const StoredTensor* find(const std::string& name, const Shape& shape) const {
        if (!followed_) return nullptr;
        const auto recorded = followed_->find(prefix_ + name);
        if (recorded == followed_->end()) return nullptr;
        require(recorded->second.shape == shape, "the record to follow has ", prefix_ + name, " of shape ",
                to_string(recorded->second.shape), "; ", to_string(shape), " is needed");
        return &recorded->second;
    }

    template <class P>
    Tensor<P> followed(const std::string& name, Tensor<P> tensor) const {
        if (const StoredTensor* recorded = find(name, tensor.shape()))
            for (Index i = 0; i < tensor.size(); ++i) tensor[i] = typename P::Real(recorded->number(i));
        return tensor;
    }

    Listener listener_;
    std::shared_ptr<const Followed> followed_;
    std::string prefix_;
};

template <class P>
void Trace::show(const std::string& name, const Tensor<P>& tensor, DType deployed_dtype,
                 const std::string& scale) const {
    if (!listener_) return;
    Shown shown{.name = prefix_ + name, .tensor = {}};
    if (scale.starts_with("1/"))
        shown.scale = "1/" + prefix_ + scale.substr(2);
    else if (!scale.empty())
        shown.scale = prefix_ + scale;
    if constexpr (std::is_same_v<P, Deployed>) {
        shown.tensor = store(tensor, deployed_dtype);
    } else {
        Array<double> values(tensor.shape());
        for (Index i = 0; i < tensor.size(); ++i) values[i] = value_of(tensor[i]);
        shown.tensor = store(values, DType::float64);
        if constexpr (requires(typename P::Real x) { x.error; }) {
            shown.error.emplace(tensor.shape());
            shown.deployed_error.emplace(tensor.shape());
            for (Index i = 0; i < tensor.size(); ++i) {
                (*shown.error)[i] = tensor[i].error.exact;
                (*shown.deployed_error)[i] = tensor[i].error.deployed;
            }
        }
    }
    listener_(shown);
}

}  // namespace dsa
