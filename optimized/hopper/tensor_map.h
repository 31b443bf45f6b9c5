// A tensor in global memory and the box that a tensor copy takes of it: made on the host, given to a kernel as
// `const __grid_constant__ TensorMap`, used by hopper/tma.h. On the GPU it is the driver's CUtensorMap; the simulator
// has the description itself. Both are checked by the same sentences. CUDA driver API, "cuTensorMapEncodeTiled".
#pragma once

#include <cstdint>

#include "optimized/hopper/swizzle.h"
#include "optimized/support/call.h"
#if !defined(DSA_SIMULATOR)
#include <cuda.h>
#endif

namespace dsa {

enum class Element : std::uint8_t { uint8, bf16, int32, float32 };  // e4m3 goes as uint8

constexpr int bytes_of(Element e) { return e == Element::uint8 ? 1 : e == Element::bf16 ? 2 : 4; }

// Dimension 0 is the one whose elements lie together.
struct Tiled {
    Element element = Element::uint8;
    const void* address = nullptr;
    int rank = 0;
    std::uint64_t extent[5] = {};
    std::uint64_t stride[5] = {};  // bytes; [0] is not asked
    std::uint32_t box[5] = {};
    Swizzle swizzle = Swizzle::none;
    bool nan_outside = false;  // fills with NaN what lies outside of the tensor; else with zeros
    int l2_promotion = 128;    // bytes that a miss brings to the L2 cache: 0, 64, 128 or 256
};

// Of the tile in shared memory.
constexpr std::uint64_t box_bytes(const Tiled& t) {
    auto bytes = static_cast<std::uint64_t>(bytes_of(t.element));
    for (int d = 0; d < t.rank; ++d) bytes *= t.box[d];
    return bytes;
}

struct alignas(128) TensorMap {
#if defined(DSA_SIMULATOR)
    Tiled tiled;
#else
    CUtensorMap encoded;
#endif
};

// Refuses with one sentence what the hardware does not take. `name`: the tensor's, for the sentence.
TensorMap tensor_map(const char* name, const Tiled& how);

template <class T>
constexpr Element element_of() {
    static_assert(sizeof(T) <= 4, "no such element");
    return sizeof(T) == 1 ? Element::uint8 : sizeof(T) == 2 ? Element::bf16 : Element::float32;
}

// A row-major matrix [rows, columns] whose rows begin `stride` elements apart.
template <class T>
TensorMap matrix_map(const char* name, const T* address, std::int64_t rows, std::int64_t columns, std::int64_t stride,
                     int box_rows, int box_columns, Swizzle swizzle) {
    Tiled how;
    how.element = element_of<T>();
    how.address = address;
    how.rank = 2;
    how.extent[0] = static_cast<std::uint64_t>(columns);
    how.extent[1] = static_cast<std::uint64_t>(rows);
    how.stride[1] = static_cast<std::uint64_t>(stride) * sizeof(T);
    how.box[0] = static_cast<std::uint32_t>(box_columns);
    how.box[1] = static_cast<std::uint32_t>(box_rows);
    how.swizzle = swizzle;
    return tensor_map(name, how);
}

}  // namespace dsa
