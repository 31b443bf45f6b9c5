// How numbers are stored in files and shown to the outside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "reference/numerics/array.h"
#include "reference/numerics/bfloat16.h"
#include "reference/numerics/float8.h"

namespace dsa {

enum class DType { float64, float32, bfloat16, float8_e4m3, uint8, int32, int64, boolean };

std::string name_of(DType dtype);
// "float32", "bfloat16", ... ; refuses others with the list.
DType dtype_from_name(const std::string& name);
std::size_t size_of(DType dtype);

// A tensor as it lies in a file: logical dtype, shape and bytes (little-endian, row-major).
struct StoredTensor {
    DType dtype = DType::float32;
    Shape shape;
    std::vector<std::byte> bytes;

    Index size() const { return element_count(shape); }
    // Element i as a number, whatever the dtype.
    double number(Index i) const;
    // Elements first ... first + count - 1 as numbers, to `out`.
    void read(Index first, Index count, double* out) const;

    template <class T>
    T raw(Index i) const {
        T value;
        std::memcpy(&value, bytes.data() + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
        return value;
    }
};

// Rounds numbers into `dtype` (to nearest, ties to even; e4m3 saturates). Integers must be whole and fit.
StoredTensor store(const Array<double>& numbers, DType dtype);
StoredTensor store(const Array<float>& numbers, DType dtype);
StoredTensor store(const Array<std::int32_t>& numbers);
StoredTensor store(const Array<std::uint8_t>& numbers);

}  // namespace dsa
