#include "reference/dtype.h"

#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "reference/refusal.h"

namespace dsa {
namespace {

struct Entry {
    DType dtype;
    const char* name;
    std::size_t size;
};

constexpr std::array<Entry, 8> entries{{{DType::float64, "float64", 8},
                                        {DType::float32, "float32", 4},
                                        {DType::bfloat16, "bfloat16", 2},
                                        {DType::float8_e4m3, "float8_e4m3", 1},
                                        {DType::uint8, "uint8", 1},
                                        {DType::int32, "int32", 4},
                                        {DType::int64, "int64", 8},
                                        {DType::boolean, "bool", 1}}};

const Entry& entry_of(DType dtype) {
    for (const Entry& entry : entries)
        if (entry.dtype == dtype) return entry;
    refuse("unknown dtype");
}

template <class T>
T whole(double x, DType dtype) {
    require(x >= static_cast<double>(std::numeric_limits<T>::min()) &&
                x <= static_cast<double>(std::numeric_limits<T>::max()) && x == std::trunc(x),
            "the number ", x, " cannot be stored as ", name_of(dtype));
    return static_cast<T>(x);
}

template <class T>
void put(StoredTensor& out, Index i, T value) {
    std::memcpy(out.bytes.data() + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof(T));
}

template <class Real>
StoredTensor store_numbers(const Array<Real>& numbers, DType dtype) {
    StoredTensor out{dtype, numbers.shape(), {}};
    out.bytes.resize(static_cast<std::size_t>(numbers.size()) * size_of(dtype));
    for (Index i = 0; i < numbers.size(); ++i) {
        const Real x = numbers[i];
        switch (dtype) {
            case DType::float64: put(out, i, static_cast<double>(x)); break;
            case DType::float32: put(out, i, static_cast<float>(x)); break;
            case DType::bfloat16: put(out, i, to_bfloat16(static_cast<float>(x)).bits); break;
            case DType::float8_e4m3: put(out, i, to_e4m3(static_cast<float>(x)).bits); break;
            case DType::uint8: put(out, i, whole<std::uint8_t>(static_cast<double>(x), dtype)); break;
            case DType::int32: put(out, i, whole<std::int32_t>(static_cast<double>(x), dtype)); break;
            case DType::int64: put(out, i, whole<std::int64_t>(static_cast<double>(x), dtype)); break;
            case DType::boolean: put(out, i, static_cast<std::uint8_t>(x != Real(0))); break;
        }
    }
    return out;
}

template <class T>
StoredTensor copy_of(const Array<T>& numbers, DType dtype) {
    StoredTensor out{dtype, numbers.shape(), {}};
    out.bytes.resize(static_cast<std::size_t>(numbers.size()) * sizeof(T));
    if (!out.bytes.empty()) std::memcpy(out.bytes.data(), numbers.data(), out.bytes.size());
    return out;
}

}  // namespace

std::string name_of(DType dtype) { return entry_of(dtype).name; }

std::size_t size_of(DType dtype) { return entry_of(dtype).size; }

DType dtype_from_name(const std::string& name) {
    std::string known;
    for (const Entry& entry : entries) {
        if (name == entry.name) return entry.dtype;
        known += (known.empty() ? "" : ", ") + std::string(entry.name);
    }
    refuse("there is no dtype named \"", name, "\"; there are ", known);
}

double StoredTensor::number(Index i) const {
    double value = 0.0;
    read(i, 1, &value);
    return value;
}

void StoredTensor::read(Index first, Index count, double* out) const {
    const auto each = [&](auto&& element) {
        for (Index i = 0; i < count; ++i) out[i] = static_cast<double>(element(first + i));
    };
    switch (dtype) {
        case DType::float64: return each([this](Index i) { return raw<double>(i); });
        case DType::float32: return each([this](Index i) { return raw<float>(i); });
        case DType::bfloat16: return each([this](Index i) { return to_float(bfloat16{raw<std::uint16_t>(i)}); });
        case DType::float8_e4m3: return each([this](Index i) { return to_float(float8_e4m3{raw<std::uint8_t>(i)}); });
        case DType::uint8:
        case DType::boolean: return each([this](Index i) { return raw<std::uint8_t>(i); });
        case DType::int32: return each([this](Index i) { return raw<std::int32_t>(i); });
        case DType::int64: return each([this](Index i) { return raw<std::int64_t>(i); });
    }
}

StoredTensor store(const Array<double>& numbers, DType dtype) { return store_numbers(numbers, dtype); }
StoredTensor store(const Array<float>& numbers, DType dtype) { return store_numbers(numbers, dtype); }
StoredTensor store(const Array<std::int32_t>& numbers) { return copy_of(numbers, DType::int32); }
StoredTensor store(const Array<std::uint8_t>& numbers) { return copy_of(numbers, DType::uint8); }

}  // namespace dsa
