// Which rows a block of threads works on, and scales of quantised numbers: the same at every level.
#pragma once

#include "optimized/hopper/numbers.h"
#include "optimized/linear/linear.h"

namespace dsa {

inline constexpr int scale_block = 128;  // numbers of a row of x, and of either side of W, that share a scale

// The rows of matrix h: y's rows from `first`, `count` of them.
struct Rows {
    std::int64_t first, count;
};
__device__ inline Rows rows_of(const Linear& call, std::int64_t h) {
    if (call.first_row == nullptr) return {0, call.T};
    return {call.first_row[h], call.first_row[h + 1] - call.first_row[h]};
}
__device__ inline std::int64_t x_row_of(const Linear& call, std::int64_t row) {
    return call.row_of == nullptr ? row : call.row_of[row];
}

__device__ inline float x_scale_of(const Linear& call, std::int64_t x_row, std::int64_t k) {
    return call.x_scale[x_row * ((call.K + scale_block - 1) / scale_block) + k / scale_block];
}
__device__ inline const float& w_scale_at(const Linear& call, std::int64_t h, std::int64_t k, std::int64_t n) {
    const std::int64_t down = (call.K + scale_block - 1) / scale_block;
    const std::int64_t across = (call.N + scale_block - 1) / scale_block;
    return call.w_scale[(h * down + k / scale_block) * across + n / scale_block];
}
__device__ inline float w_scale_of(const Linear& call, std::int64_t h, std::int64_t k, std::int64_t n) {
    return w_scale_at(call, h, k, n);
}

__device__ inline void store_y(const Linear& call, std::int64_t h, std::int64_t row, std::int64_t n, float value) {
    const std::int64_t at = h * call.y_head + row * call.y_row + n;
    if (call.y != nullptr)
        call.y[at] = to_bf16(value);
    else
        call.y_float32[at] = value;
}

}  // namespace dsa
