// An op's inputs, from a case folder: read from .npy files or generated, checked against the contract, and
// turned into the tier's numbers. docs/case-format.md; spec section 11.
#pragma once

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "reference/attention/rope.h"
#include "reference/cases/fill.h"
#include "reference/conventions.h"
#include "reference/numerics/weight.h"
#include "reference/refusal.h"

namespace dsa {

// One axis of a tensor's shape in the contract: a size's name ("T", bound by the first tensor that has it) or
// a number that must be met.
struct Axis {
    std::string name;
    Index exact = -1;
    Axis(const char* name_) : name(name_) {}  // NOLINT(google-explicit-constructor): {"T", "D"} reads well
    Axis(Index exact_) : exact(exact_) {}     // NOLINT(google-explicit-constructor)
    Axis(int exact_) : exact(exact_) {}       // NOLINT(google-explicit-constructor)
};
using Axes = std::vector<Axis>;

enum class Numbers { finite, any };  // whether NaN and infinity are refused

class OpInputs {
   public:
    // Reads `folder`/case.json. Tensors are read when they are asked for.
    explicit OpInputs(const std::filesystem::path& folder);

    const std::string& op() const { return op_; }
    const nlohmann::json& description() const { return case_; }
    const std::filesystem::path& folder() const { return folder_; }
    const Conventions& conventions() const { return conventions_; }
    std::string tier() const { return case_.value("tier", "deployed"); }

    bool has(const std::string& name) const { return case_["tensors"].contains(name); }
    DType dtype(const std::string& name) const;
    // The size bound to an axis name by the tensors asked for so far.
    Index size(const std::string& axis) const;

    // Floating-point input as numbers of tier P.
    template <class P>
    Tensor<P> tensor(const std::string& name, const Axes& axes, Numbers numbers = Numbers::finite) const {
        const StoredTensor& stored = floating(name, axes, numbers);
        Tensor<P> result(stored.shape);
        each_number(stored, [&result](Index i, double number) { result[i] = typename P::Real(number); });
        return result;
    }
    // A small parameter vector (a norm's weight, a bias).
    Array<float> vector(const std::string& name, const Axes& axes) const;
    // A weight, seen as [first axis, all others]; generated ones are never held in memory. FP8 ones come with
    // NAME_scale, one float32 for each 128 x 128 block.
    Weight weight(const std::string& name, const Axes& axes) const;
    // A stack of weights [E, K, N]: the matrix of number e.
    std::function<Weight(Index)> weight_stack(const std::string& name, const Axes& axes) const;
    Array<std::int32_t> integers(const std::string& name, const Axes& axes) const;
    // Integers within [low, high].
    Array<std::int32_t> integers(const std::string& name, const Axes& axes, Index low, Index high) const;
    Array<std::uint8_t> bytes(const std::string& name, const Axes& axes) const;

    bool has_parameter(const std::string& name) const { return case_["parameters"].contains(name); }
    double number(const std::string& name, std::optional<double> otherwise = std::nullopt) const;
    Index whole(const std::string& name, std::optional<Index> otherwise = std::nullopt) const;
    bool flag(const std::string& name, bool otherwise) const;
    std::string choice(const std::string& name, const std::vector<std::string>& allowed,
                       const std::string& otherwise) const;
    // The parameter "rope": an object of RopeParameters' entries over V3.2's.
    RopeParameters rope() const;

    void mark_used(const std::string& parameter) const { used_parameters_.insert(parameter); }
    // Refuses tensors and parameters of the case that nothing has asked for: a misspelt optional input must
    // not be ignored in silence.
    void refuse_unused() const;

    // An input as it is stored: read from its file, or generated whole.
    const StoredTensor& stored(const std::string& name) const;

   private:
    // visit(i, number) for every element, read some at a time.
    template <class Visit>
    static void each_number(const StoredTensor& stored, Visit&& visit) {
        std::array<double, 1024> numbers;
        for (Index first = 0; first < stored.size(); first += numbers.size()) {
            const Index count = std::min<Index>(numbers.size(), stored.size() - first);
            stored.read(first, count, numbers.data());
            for (Index i = 0; i < count; ++i) visit(first + i, numbers[static_cast<std::size_t>(i)]);
        }
    }
    const nlohmann::json& entry(const std::string& name) const;

    const StoredTensor& floating(const std::string& name, const Axes& axes, Numbers numbers) const;
    void match(const std::string& name, const Shape& shape, const Axes& axes) const;
    Weight flat_weight(const std::string& name, Index base, Index rows, Index cols, Index number) const;
    const nlohmann::json& parameter(const std::string& name) const;

    std::filesystem::path folder_;
    nlohmann::json case_;
    std::string op_;
    std::uint64_t seed_ = 0;
    Conventions conventions_;
    mutable std::map<std::string, StoredTensor> stored_;
    mutable std::map<std::string, std::pair<Index, std::string>> sizes_;  // axis -> (size, who bound it)
    mutable std::set<std::string> used_tensors_;
    mutable std::set<std::string> used_parameters_;
};

}  // namespace dsa
