// Tensors as they come through dsa.h, read with distrust: dtype, rank, sizes, strides and alignment are checked, and
// a kernel gets a plain pointer.
#pragma once

#include <initializer_list>
#include <map>
#include <string>

#include "golden/dsa.h"
#include "optimized/support/call.h"

namespace dsa {

template <class T>
inline constexpr dsa_dtype dtype_of = dsa_uint8;
template <>
inline constexpr dsa_dtype dtype_of<float> = dsa_float32;
template <>
inline constexpr dsa_dtype dtype_of<bf16> = dsa_bfloat16;
template <>
inline constexpr dsa_dtype dtype_of<e4m3> = dsa_float8_e4m3;
template <>
inline constexpr dsa_dtype dtype_of<std::int32_t> = dsa_int32;

const char* name_of(dsa_dtype dtype);

// The tensors of one call. An axis is a letter of the contract, bound by the first tensor that has it, or a number.
class Arguments {
   public:
    // A tensor of [axes]. Refused where it is missing, of another dtype, of another size, not packed, or where its
    // data does not begin at a multiple of 16 bytes.
    template <class T>
    const T* in(const char* name, const dsa_tensor& tensor, std::initializer_list<const char*> axes) {
        return static_cast<const T*>(checked(name, tensor, dtype_of<T>, axes));
    }
    template <class T>
    T* out(const char* name, const dsa_tensor& tensor, std::initializer_list<const char*> axes) {
        return static_cast<T*>(checked(name, tensor, dtype_of<T>, axes));
    }
    // nullptr where the call does not have it
    template <class T>
    const T* maybe(const char* name, const dsa_tensor& tensor, std::initializer_list<const char*> axes) {
        return tensor.data == nullptr ? nullptr : in<T>(name, tensor, axes);
    }

    std::int64_t size(const std::string& axis) const;
    // Gives an axis its size before a tensor does; refused where a tensor has bound it otherwise.
    void bind(const std::string& axis, std::int64_t size);

   private:
    void* checked(const char* name, const dsa_tensor& tensor, dsa_dtype dtype,
                  std::initializer_list<const char*> axes);

    std::map<std::string, std::int64_t> sizes_;
};

}  // namespace dsa
