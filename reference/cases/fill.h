// Where do a case's inputs come from? Each tensor declares how it is filled, and any element can be made from
// (seed, tensor's name, element's number) alone, bit for bit the same in C++, CUDA and NumPy.
// docs/case-format.md, "Fills"; spec section 12.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "reference/dtype.h"
#include "reference/numerics/weight.h"

namespace dsa {

// The 32-bit FNV-1a hash of the name's bytes: what tells one tensor's random numbers from another's.
// Fowler, Noll, Vo: "The FNV Non-Cryptographic Hash Algorithm", draft-eastlake-fnv, section 2.
std::uint32_t tensor_id(std::string_view name);

struct FillRecipe;  // what a declaration says, checked: fill.cpp

// One tensor's declaration in a case: dtype, shape, fill, patches.
class Fill {
   public:
    // tensor_entry: {"dtype": ..., "shape": [...], "fill": {...}, "set_rows": [...], "set": [...]}, the last
    // two optional. Refuses whatever the tensor cannot be made from, naming the tensor.
    static Fill from_json(const nlohmann::json& tensor_entry, const std::string& name, std::uint64_t seed);

    const std::string& name() const;
    DType dtype() const;
    const Shape& shape() const;
    Index size() const { return element_count(shape()); }

    // Whether elements can be made one by one. The members that need this refuse other fills.
    bool lazy() const;
    // Element i, counted flat, rounded into the dtype. Lazy fills only.
    float element(Index i) const;
    // Elements first ... first + count - 1, rounded into the dtype, to `out`. Lazy fills only.
    void read(Index first, Index count, float* out) const;
    // A weight [rows, cols] whose element (r, c) is element base_index + r * cols + c. Lazy fills only. The
    // weight holds the recipe, not the numbers; it may outlive this object.
    Weight as_weight(Index rows, Index cols, Index base_index = 0) const;

    // The whole tensor.
    StoredTensor materialise() const;

   private:
    explicit Fill(std::shared_ptr<const FillRecipe> recipe) : recipe_(std::move(recipe)) {}

    std::shared_ptr<const FillRecipe> recipe_;
};

}  // namespace dsa
