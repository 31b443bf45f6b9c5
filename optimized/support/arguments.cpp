#include "optimized/support/arguments.h"

#include <cctype>

namespace dsa {

const char* name_of(dsa_dtype dtype) {
    switch (dtype) {
        case dsa_float64: return "float64";
        case dsa_float32: return "float32";
        case dsa_bfloat16: return "bfloat16";
        case dsa_float8_e4m3: return "float8_e4m3";
        case dsa_uint8: return "uint8";
        case dsa_int32: return "int32";
        case dsa_int64: return "int64";
        case dsa_bool: return "bool";
    }
    return "no dtype of dsa.h";
}

namespace {

std::string shape_of(const dsa_tensor& tensor) {
    std::string text = "[";
    for (int i = 0; i < tensor.rank; ++i) text += (i > 0 ? ", " : "") + std::to_string(tensor.shape[i]);
    return text + "]";
}

}  // namespace

std::int64_t Arguments::size(const std::string& axis) const {
    const auto found = sizes_.find(axis);
    require(found != sizes_.end(), "the size ", axis, " is not known: no tensor has it");
    return found->second;
}

void Arguments::bind(const std::string& axis, std::int64_t size) {
    const auto [place, is_new] = sizes_.emplace(axis, size);
    require(is_new || place->second == size, "the size ", axis, " must be ", place->second,
            ", as the tensors before have it; it is ", size);
}

void* Arguments::checked(const char* name, const dsa_tensor& tensor, dsa_dtype dtype,
                         std::initializer_list<const char*> axes) {
    require(tensor.data != nullptr, "the tensor ", name, " is missing: its data is NULL");
    require(tensor.dtype == dtype, name, " must be ", name_of(dtype), "; it is ",
            name_of(static_cast<dsa_dtype>(tensor.dtype)));
    require(tensor.rank == static_cast<int>(axes.size()), name, " must have ", axes.size(), " axes; it has ",
            tensor.rank);
    int i = 0;
    for (const char* axis : axes) {
        const std::int64_t extent = tensor.shape[i];
        require(extent >= 0, "the shape of ", name, " must not be negative; it is ", shape_of(tensor));
        const bool is_number = std::isdigit(static_cast<unsigned char>(axis[0])) != 0;
        const std::int64_t wanted = is_number ? std::stoll(axis) : sizes_.emplace(axis, extent).first->second;
        require(extent == wanted, "axis ", i, " of ", name, ", ", axis, ", must be ", wanted, "; the shape is ",
                shape_of(tensor));
        ++i;
    }
    std::int64_t packed = 1;
    for (int axis = tensor.rank - 1; axis >= 0; --axis) {
        // The stride of an axis of one element, or of a tensor of none, is never used.
        require(tensor.shape[axis] <= 1 || packed == 0 || tensor.stride[axis] == packed, name,
                " must be packed, row after row: the stride of axis ", axis, " must be ", packed, "; it is ",
                tensor.stride[axis]);
        packed *= tensor.shape[axis];
    }
    constexpr std::uintptr_t alignment = 16;
    if (packed > 0 && reinterpret_cast<std::uintptr_t>(tensor.data) % alignment != 0)
        refuse(Status::misaligned, name, " must begin at a multiple of ", alignment, " bytes; it begins at ",
               reinterpret_cast<std::uintptr_t>(tensor.data) % alignment, " beyond one");
    return tensor.data;
}

}  // namespace dsa
