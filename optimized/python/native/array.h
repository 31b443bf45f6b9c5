// How does an array of any library become a tensor of dsa.h, and back? By DLPack, which says where the numbers lie,
// of which dtype and device they are, and nothing is copied. (DLPack 1.1, DLTensor: github.com/dmlc/dlpack,
// dlpack.h.)
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <string>
#include <vector>

#include "optimized/python/native/call.h"
#include "optimized/support/refusal.h"

namespace dsa {

namespace nb = nanobind;

// dsa.h's dtypes as DLPack's, in the order of dsa_dtype.
inline constexpr nb::dlpack::dtype dlpack_dtypes[] = {{2, 64, 1}, {2, 32, 1}, {4, 16, 1}, {10, 8, 1},
                                                      {1, 8, 1},  {0, 32, 1}, {0, 64, 1}, {6, 8, 1}};

// DLPack's numbers of devices.
inline constexpr int on_host = 1;
inline constexpr int on_cuda = 2;
inline constexpr int on_cuda_host = 3;
inline constexpr int on_cuda_managed = 13;

// An array of the binding's own, in the library's memory. It speaks DLPack.
struct Array {
    std::shared_ptr<Buffer> owner;  // null: it lies in memory that somebody else keeps
    dsa_tensor tensor;
    Memory* memory;
    bool on_device;

    std::vector<std::int64_t> shape() const { return {tensor.shape, tensor.shape + tensor.rank}; }
    dsa_dtype dtype() const { return static_cast<dsa_dtype>(tensor.dtype); }
    std::int64_t bytes() const {
        std::int64_t count = bytes_of(dtype());
        for (const std::int64_t extent : shape()) count *= extent;
        return count;
    }
};

inline std::string text_of(nb::handle object) { return nb::cast<std::string>(nb::str(object)); }

// What is given for one tensor, and what keeps it alive.
struct Given {
    dsa_tensor tensor;
    nb::object keeper;
};

// Arguments: nb::ro, or none where the array is written.
template <class... Arguments>
Given given(nb::handle object, const std::string& name, bool device) {
    using Any = nb::ndarray<Arguments...>;
    nb::object source = nb::borrow(object);
    int dtype = -1;
    // NumPy does not pass ml_dtypes' numbers on by DLPack: their bytes go instead.
    if (nb::hasattr(object, "__array_interface__") && nb::hasattr(object, "dtype")) {
        const std::string word = text_of(object.attr("dtype"));
        if (word == "bfloat16") dtype = dsa_bfloat16;
        if (word == "float8_e4m3fn") dtype = dsa_float8_e4m3;
        if (dtype != -1) source = object.attr("view")(dtype == dsa_bfloat16 ? "uint16" : "uint8");
    }
    Any array;
    if (!nb::try_cast<Any>(source, array, false)) {
        PyErr_Clear();
        const bool writes = sizeof...(Arguments) == 0;
        refuse(Status::bad_argument, name, " must be an array that speaks DLPack",
               writes ? " and can be written" : "", ", of at most 4 axes; it is ", text_of(object.type()));
    }
    if (dtype == -1) {
        for (int i = 0; i < 8; ++i)
            if (array.dtype() == dlpack_dtypes[i]) dtype = i;
        if (dtype == -1)
            refuse(Status::bad_argument, name, " is of a dtype that dsa.h does not have, ",
                   nb::hasattr(object, "dtype") ? text_of(object.attr("dtype")) : "",
                   ": it has float64, float32, bfloat16, float8_e4m3 (in NumPy ml_dtypes.bfloat16 and "
                   "ml_dtypes.float8_e4m3fn), uint8, int32, int64 and bool");
    }
    const int where = array.device_type();
    const bool reachable =
        device ? where == on_cuda || where == on_cuda_managed : where == on_host || where == on_cuda_host;
    require(reachable, name, " lies on DLPack's device type ", where, where == on_host ? " (the host)" : "",
            where == on_cuda ? " (CUDA)" : "", "; this library reads ",
            device ? "a GPU's memory: copy the array there" : "the host's memory: copy the array there",
            device ? "" : ", or load libdsa_optimized.so");
    require(array.ndim() <= 4, name, " has ", array.ndim(), " axes; a tensor of dsa.h has at most 4");
    Given found{{array.data_handle(), dtype, static_cast<std::int32_t>(array.ndim()), {}, {}}, nb::cast(array)};
    found.tensor.data = static_cast<unsigned char*>(array.data_handle()) + array.byte_offset();
    for (std::size_t i = 0; i < array.ndim(); ++i) {
        found.tensor.shape[i] = static_cast<std::int64_t>(array.shape(i));
        found.tensor.stride[i] = array.stride(i);
    }
    if (array.size() > 0) return found;
    // A tensor of no elements may have no address, which would mean that it is missing, and its strides mean nothing.
    alignas(256) static unsigned char nothing[256];
    found.tensor = described(nothing, static_cast<dsa_dtype>(dtype),
                             {found.tensor.shape, found.tensor.shape + found.tensor.rank});
    return found;
}

}  // namespace dsa
