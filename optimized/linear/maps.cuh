// The tensor maps of x and W: [heads, outer, inner], inner side by side, in boxes as wide as the swizzle's 128 bytes.
#pragma once

#include "optimized/hopper/tma.h"
#include "optimized/linear/linear.h"

namespace dsa {

template <class T>
TensorMap map_of(const char* name, const T* address, std::int64_t inner, std::int64_t outer, std::int64_t heads,
                 std::int64_t outer_stride, std::int64_t head_stride, int box_outer) {
    Tiled how;
    how.element = element_of<T>();
    how.address = address;
    how.rank = 3;
    how.extent[0] = static_cast<std::uint64_t>(inner);
    how.extent[1] = static_cast<std::uint64_t>(outer);
    how.extent[2] = static_cast<std::uint64_t>(heads);
    how.stride[1] = static_cast<std::uint64_t>(outer_stride) * sizeof(T);
    how.stride[2] = static_cast<std::uint64_t>(heads == 1 ? outer_stride : head_stride) * sizeof(T);
    how.box[0] = 128 / sizeof(T);
    how.box[1] = static_cast<std::uint32_t>(box_outer);
    how.box[2] = 1;
    how.swizzle = Swizzle::bytes_128;
    return tensor_map(name, how);
}

// A stage has 64 of k: boxes of [columns, 64 k], or of [64 k, 64 columns].
template <int columns, bool k_side_by_side>
TensorMap map_of_w(const Linear& call) {
    return k_side_by_side ? map_of("W", call.w, call.K, call.N, call.heads, call.w_n, call.w_head, columns)
                          : map_of("W", call.w, call.N, call.K, call.heads, call.w_k, call.w_head, 64);
}

}  // namespace dsa
