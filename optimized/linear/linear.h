// y = x W, the product under every projection: not an op of the contract, but what several are composed of. Spec
// sections 2, 3 and 6. Sums are float32.
//
// level 1  a tile of x and a tile of W in shared memory, float32 products
// level 2  the same tiles as bf16, on the tensor cores; 16 bytes a load
// level 3  copies into a ring of stages, wgmma; four kernels, of one matrix, of rows in groups, of few rows, and of
// e4m3
#pragma once

#include "optimized/support/call.h"

namespace dsa {

// One matrix, or a batch of `heads` of them: y[h] [T, N] = x[h] [T, K] W[h] [K, N]. A stride counts elements; k of x
// and n of y are side by side. W[h][k][n] lies at h w_head + k w_k + n w_n, so that W_uk [R_kv, H, d_nope] transposed
// is w_head = d_nope, w_k = 1, w_n = H d_nope.
struct Linear {
    const bf16* x;         // rows x_row apart; null where x_e4m3 or x_float32 is given
    const e4m3* x_e4m3;    // quantised, as FP8 weights ask it
    const float* x_scale;  // of x_e4m3: one number for min(K, 128) numbers of a row, [row, ceil(K / 128)]
    std::int64_t x_row, x_head;

    const bf16* w;  // one of the three
    const float* w_float32;
    const e4m3* w_e4m3;
    const float* w_scale;  // of w_e4m3: one number for 128 x 128, [h][ceil(K / 128), ceil(N / 128)]
    std::int64_t w_k, w_n, w_head;

    bf16* y;  // one of the two
    float* y_float32;
    std::int64_t y_row, y_head;

    std::int64_t T, K, N;
    std::int64_t heads = 1;

    // Rows in groups, for experts: matrix h takes the rows first_row[h] to first_row[h + 1] - 1 of y, at most T of
    // them. Row r of y is row row_of[r] of x. Both lie on the device; null: every matrix takes the rows 0 to T - 1.
    const std::int32_t* first_row = nullptr;  // [heads + 1]
    const std::int32_t* row_of = nullptr;
    Stream stream = nullptr;
    const float* x_float32 = nullptr;  // a gradient that is kept so, say of logits: level 1
};

void linear_level_1(const Linear& call);
void linear_level_2(const Linear& call);
void linear_level_3(const Linear& call);
void linear_level_3_of_groups(const Linear& call);    // its kernel where first_row is given
void linear_level_3_of_few_rows(const Linear& call);  // its kernel of at most 64 rows
void linear_level_3_of_e4m3(const Linear& call);      // and of e4m3 numbers
std::string linear_level_2_declines(const Linear& call);
std::string linear_level_3_declines(const Linear& call);

// The highest level up to `level` that takes the call.
void linear(const Linear& call, int level);

// One packed matrix: y [T, N] = x [T, K] w [K, N], all of bf16.
Linear packed_linear(const bf16* x, const bf16* w, bf16* y, std::int64_t T, std::int64_t K, std::int64_t N,
                     Stream stream);

}  // namespace dsa
