// Products of matrices of which each head has its own, as attention's have them.
#pragma once

#include "optimized/linear/linear.h"

namespace dsa {

// A matrix [rows, columns] a head.
struct HeadMatrices {
    const bf16* data;
    std::int64_t rows, columns;
    std::int64_t row, head;  // numbers to the next
};

// Of a tensor [rows, H, columns], from head `first` on.
inline HeadMatrices matrices_of_heads(const bf16* tensor, std::int64_t first, std::int64_t rows, std::int64_t H,
                                      std::int64_t columns) {
    return {tensor + first * columns, rows, columns, H * columns, columns};
}
// One matrix behind the other: [heads, rows, columns].
inline HeadMatrices packed_matrices(const bf16* data, std::int64_t rows, std::int64_t columns) {
    return {data, rows, columns, columns, rows * columns};
}

// x w, or x w^T, of so many heads, all but where y lies: packed, one matrix behind the other.
inline Linear product_of_heads(const HeadMatrices& x, const HeadMatrices& w, bool w_transposed, std::int64_t heads,
                               Stream stream) {
    Linear call{};
    call.x = x.data;
    call.x_row = x.row;
    call.x_head = x.head;
    call.w = w.data;
    call.w_k = w_transposed ? 1 : w.row;
    call.w_n = w_transposed ? w.row : 1;
    call.w_head = w.head;
    call.T = x.rows;
    call.K = x.columns;
    call.N = w_transposed ? w.rows : w.columns;
    call.y_row = call.N;
    call.y_head = call.T * call.N;
    call.heads = heads;
    call.stream = stream;
    return call;
}

}  // namespace dsa
