// y = x^T dy, the gradient of a weight of linear: not an op of the contract, but what those of experts are composed
// of. The sum runs over tokens, in their order, in float32.
//
// level 1  a tile of x and a tile of dy in shared memory, float32 products
// level 2  the same tiles, turned, as bf16 on the tensor cores
#pragma once

#include "optimized/support/call.h"

namespace dsa {

// y[h] [M, N] = sum over the rows r of matrix h of x[row_of[r]]^T dy[r].
struct WeightGradient {
    const bf16* x;   // rows of M numbers
    const bf16* dy;  // [rows, N]; null where dy_float32 is given
    float* y;        // [heads, M, N]
    std::int64_t rows, M, N;
    std::int64_t heads = 1;
    // As in Linear: matrix h takes the rows first_row[h] to first_row[h + 1] - 1 of dy, and row r of dy belongs to
    // row row_of[r] of x. Both lie on the device; null: one matrix takes all rows, and row r is row r.
    const std::int32_t* first_row = nullptr;  // [heads + 1]
    const std::int32_t* row_of = nullptr;
    Stream stream = nullptr;
    const float* dy_float32 = nullptr;  // level 1, since the tensor cores would round it
};

void weight_gradient_level_1(const WeightGradient& call);
void weight_gradient_level_2(const WeightGradient& call);

// At `level`, or at the highest below that takes the call.
inline void weight_gradient(const WeightGradient& call, int level) {
    level >= 2 && call.dy_float32 == nullptr ? weight_gradient_level_2(call) : weight_gradient_level_1(call);
}

}  // namespace dsa
