#include "optimized/hopper/tensor_map.h"

#if !defined(DSA_SIMULATOR)
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#endif

namespace dsa {
namespace {

// CUDA driver API, "cuTensorMapEncodeTiled", without interleave and with element strides of 1.
void check(const char* name, const Tiled& t) {
    constexpr std::uint64_t most_of_extent = 1ULL << 32;
    constexpr std::uint64_t end_of_strides = 1ULL << 40;
    require(t.rank >= 1 && t.rank <= 5, name, ": a tensor map has 1 to 5 dimensions, not ", t.rank);
    if (reinterpret_cast<std::uintptr_t>(t.address) % 16 != 0)
        refuse(Status::misaligned, name, ": a tensor map needs an address at a multiple of 16 bytes");
    require(t.address != nullptr, name, ": a tensor map needs an address");
    for (int d = 0; d < t.rank; ++d) {
        require(t.extent[d] >= 1 && t.extent[d] <= most_of_extent, name, ": extent ", d,
                " of a tensor map is 1 to 2^32, not ", t.extent[d]);
        require(t.box[d] >= 1 && t.box[d] <= 256, name, ": the box of a tensor map has 1 to 256 elements in dimension ",
                d, ", not ", t.box[d]);
    }
    for (int d = 1; d < t.rank; ++d) {
        if (t.stride[d] % 16 != 0)
            refuse(Status::misaligned, name, ": stride ", d, " of a tensor map is a multiple of 16 bytes, not ",
                   t.stride[d], ": pad the rows");
        require(t.stride[d] < end_of_strides, name, ": stride ", d, " of a tensor map is below 2^40 bytes, not ",
                t.stride[d]);
    }
    const auto inner = t.box[0] * static_cast<std::uint32_t>(bytes_of(t.element));
    require(inner % 16 == 0, name, ": the box's inner dimension is a multiple of 16 bytes, not ", inner);
    const auto span = static_cast<std::uint32_t>(span_of(t.swizzle));
    // Narrower boxes are taken by the driver; how they lie in shared memory is not written down.
    require(t.swizzle == Swizzle::none || inner == span, name, ": with a swizzle of ", span,
            " bytes the box's inner dimension is as many, not ", inner);
    require(!t.nan_outside || t.element == Element::bf16 || t.element == Element::float32, name,
            ": only tensors of bf16 or float32 can be filled with NaN");
    require(t.l2_promotion == 0 || t.l2_promotion == 64 || t.l2_promotion == 128 || t.l2_promotion == 256, name,
            ": L2 promotion is 0, 64, 128 or 256 bytes, not ", t.l2_promotion);
}

#if !defined(DSA_SIMULATOR)

// The driver's function by way of the runtime: nothing is linked to libcuda.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
    static const auto function = [] {
        void* entry = nullptr;
        cudaDriverEntryPointQueryResult found{};
        const cudaError_t error =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
        if (error != cudaSuccess || found != cudaDriverEntryPointSuccess || entry == nullptr)
            refuse(Status::no_gpu, "tensor maps need a driver of CUDA 12 or later, which was not found");
        return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
    }();
    return function;
}

CUtensorMapDataType type_of(Element e) {
    switch (e) {
        case Element::uint8: return CU_TENSOR_MAP_DATA_TYPE_UINT8;
        case Element::bf16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
        case Element::int32: return CU_TENSOR_MAP_DATA_TYPE_INT32;
        case Element::float32: break;
    }
    return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

CUtensorMapSwizzle swizzle_of(Swizzle s) {
    switch (s) {
        case Swizzle::bytes_32: return CU_TENSOR_MAP_SWIZZLE_32B;
        case Swizzle::bytes_64: return CU_TENSOR_MAP_SWIZZLE_64B;
        case Swizzle::bytes_128: return CU_TENSOR_MAP_SWIZZLE_128B;
        case Swizzle::none: break;
    }
    return CU_TENSOR_MAP_SWIZZLE_NONE;
}

CUtensorMapL2promotion promotion_of(int bytes) {
    return bytes == 256   ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B
           : bytes == 128 ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B
           : bytes == 64  ? CU_TENSOR_MAP_L2_PROMOTION_L2_64B
                          : CU_TENSOR_MAP_L2_PROMOTION_NONE;
}

#endif

}  // namespace

TensorMap tensor_map(const char* name, const Tiled& how) {
    check(name, how);
    TensorMap map{};
#if defined(DSA_SIMULATOR)
    map.tiled = how;
#else
    const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
    const CUresult result = encoder()(
        &map.encoded, type_of(how.element), static_cast<cuuint32_t>(how.rank), const_cast<void*>(how.address),
        reinterpret_cast<const cuuint64_t*>(how.extent), reinterpret_cast<const cuuint64_t*>(how.stride + 1), how.box,
        steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(how.swizzle), promotion_of(how.l2_promotion),
        how.nan_outside ? CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA : CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS)
        refuse(Status::bad_argument, name, ": the driver does not take this tensor map (error ",
               static_cast<int>(result), ")");
#endif
    return map;
}

}  // namespace dsa
