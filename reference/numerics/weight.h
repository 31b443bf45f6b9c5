// A weight matrix [rows, cols] that is given, not computed: read piece by piece from wherever it lives.
//
// Weights may be bf16 or float32 arrays, FP8 blocks with scales, files mapped into memory, transposed or
// sliced, or generated on the fly from the counter-based generator. A formula sees none of that, and a
// full-size layer never has to be expanded in memory.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "reference/numerics/array.h"

namespace dsa {

class Weight {
   public:
    // Writes elements (row, first) ... (row, first + count - 1) to `out`.
    using Reader = std::function<void(Index row, Index first, Index count, float* out)>;

    Weight() = default;
    Weight(std::string name, Index rows, Index cols, Reader reader)
        : name_(std::move(name)), rows_(rows), cols_(cols), reader_(std::move(reader)) {}

    // A dense float32 array; its leading axis is the rows, all others together the columns.
    Weight(std::string name, Array<float> dense) : name_(std::move(name)), rows_(dense.dim(0)), cols_(1) {
        for (Index axis = 1; axis < dense.rank(); ++axis) cols_ *= dense.dim(axis);
        auto shared = std::make_shared<const Array<float>>(std::move(dense));
        reader_ = [shared, cols = cols_](Index row, Index first, Index count, float* out) {
            const float* source = shared->data() + row * cols + first;
            std::copy(source, source + count, out);
        };
    }

    const std::string& name() const { return name_; }
    Index rows() const { return rows_; }
    Index cols() const { return cols_; }
    bool empty() const { return !reader_; }
    // Whether the numbers come from e4m3 blocks with scales: a deployed product quantises its other operand too.
    bool is_fp8() const { return is_fp8_; }
    Weight marked_fp8() const {
        Weight marked(*this);
        marked.is_fp8_ = true;
        return marked;
    }
    void read(Index row, Index first, Index count, float* out) const { reader_(row, first, count, out); }

    float at(Index row, Index col) const {
        float value = 0.0F;
        read(row, col, 1, &value);
        return value;
    }

    // [cols, rows]
    Weight transposed() const {
        return {name_ + " transposed", cols_, rows_, [base = *this](Index row, Index first, Index count, float* out) {
                    for (Index i = 0; i < count; ++i) base.read(first + i, row, 1, out + i);
                }};
    }

    // Columns first_col ... first_col + count - 1 of every row.
    Weight columns(Index first_col, Index count) const {
        return {name_, rows_, count, [base = *this, first_col](Index row, Index first, Index width, float* out) {
                    base.read(row, first_col + first, width, out);
                }};
    }

    // Rows first_row ... first_row + count - 1.
    Weight row_range(Index first_row, Index count) const {
        return {name_, count, cols_, [base = *this, first_row](Index row, Index first, Index width, float* out) {
                    base.read(first_row + row, first, width, out);
                }};
    }

   private:
    std::string name_;
    Index rows_ = 0;
    Index cols_ = 0;
    Reader reader_;
    bool is_fp8_ = false;
};

}  // namespace dsa
