// An n-dimensional array: a shape and its elements, row-major. Nothing more.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "reference/refusal.h"

namespace dsa {

using Index = std::int64_t;
using Shape = std::vector<Index>;

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using MatrixView = Eigen::Map<Matrix<T>>;
template <class T>
using ConstMatrixView = Eigen::Map<const Matrix<T>>;
template <class T>
using RowView = Eigen::Map<Eigen::Array<T, 1, Eigen::Dynamic>>;
template <class T>
using ConstRowView = Eigen::Map<const Eigen::Array<T, 1, Eigen::Dynamic>>;

inline Index element_count(const Shape& shape) {
    Index count = 1;
    for (const Index extent : shape) count *= extent;
    return count;
}

// "[4, 128]"
inline std::string to_string(const Shape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i != 0 ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

template <class T>
class Array {
   public:
    Array() = default;
    explicit Array(Shape shape, T value = T{})
        : shape_(std::move(shape)), elements_(static_cast<std::size_t>(element_count(shape_)), value) {}
    Array(Shape shape, const std::vector<T>& elements)
        : shape_(std::move(shape)), elements_(elements.begin(), elements.end()) {
        require(static_cast<Index>(elements_.size()) == element_count(shape_), "an array of shape ",
                to_string(shape_), " needs ", element_count(shape_), " elements, not ", elements_.size());
    }

    const Shape& shape() const { return shape_; }
    Index rank() const { return static_cast<Index>(shape_.size()); }
    // dim(-1) is the last extent.
    Index dim(Index axis) const { return shape_[static_cast<std::size_t>(axis < 0 ? rank() + axis : axis)]; }
    Index size() const { return static_cast<Index>(elements_.size()); }
    bool empty() const { return elements_.empty(); }

    T* data() { return elements_.data(); }
    const T* data() const { return elements_.data(); }
    T& operator[](Index i) { return elements_[static_cast<std::size_t>(i)]; }
    const T& operator[](Index i) const { return elements_[static_cast<std::size_t>(i)]; }

    // x(t, h, d)
    template <class... Indices>
    T& operator()(Indices... indices) {
        return elements_[offset({static_cast<Index>(indices)...})];
    }
    template <class... Indices>
    const T& operator()(Indices... indices) const {
        return elements_[offset({static_cast<Index>(indices)...})];
    }

    // All leading axes as rows, the last axis as columns.
    Index cols() const { return shape_.empty() ? 1 : shape_.back(); }
    Index rows() const {
        Index count = 1;
        for (Index axis = 0; axis + 1 < rank(); ++axis) count *= dim(axis);
        return count;
    }
    MatrixView<T> matrix() { return {data(), rows(), cols()}; }
    ConstMatrixView<T> matrix() const { return {data(), rows(), cols()}; }

    // x.row(t, h): the vector along the last axis. x.row(i) counts through all leading axes.
    RowView<T> row(Index i) { return {data() + i * cols(), cols()}; }
    ConstRowView<T> row(Index i) const { return {data() + i * cols(), cols()}; }
    RowView<T> row(Index i, Index j) { return row(i * dim(-2) + j); }
    ConstRowView<T> row(Index i, Index j) const { return row(i * dim(-2) + j); }

    // x.slice(t): the matrix of the last two axes at position t of all axes before them.
    MatrixView<T> slice(Index i) { return {data() + i * dim(-2) * cols(), dim(-2), cols()}; }
    ConstMatrixView<T> slice(Index i) const { return {data() + i * dim(-2) * cols(), dim(-2), cols()}; }

    // The same elements under another shape.
    void reshape(Shape shape) {
        require(element_count(shape) == size(), "cannot see shape ", to_string(shape_), " as ", to_string(shape));
        shape_ = std::move(shape);
    }

   private:
    std::size_t offset(std::initializer_list<Index> indices) const {
        Index position = 0;
        std::size_t axis = 0;
        for (const Index i : indices) position = position * shape_[axis++] + i;
        return static_cast<std::size_t>(position);
    }

    Shape shape_;
    // Aligned: Eigen begins a vectorised sum where memory is, so that the order of a training's sums would otherwise
    // follow from where an array happens to lie, and a run could not be repeated to the byte.
    std::vector<T, Eigen::aligned_allocator<T>> elements_;
};

}  // namespace dsa
