// The middle of dense attention's backward pass, which MQA and MHA share: from scores and dout . value to what the
// last products take. p = exp(score scale - lse), dscore = p (dout . value - delta) scale, delta = sum of out dout;
// both rounded to bf16, and 0 where a query does not see a position. spec section 5.
#pragma once

#include "optimized/support/arena.h"
#include "optimized/support/call.h"

namespace dsa {

// What both chains keep of the pairs of (row, position) that they work on at a time, and delta for all.
struct DenseScratch {
    static constexpr std::int64_t bytes_of_pair = 2 * sizeof(float) + 3 * sizeof(bf16);

    float* delta;      // [T, H]
    float* scores;     // [pairs]
    float* d_p;        // [pairs]
    bf16* d_scores;    // [pairs]
    bf16* p_t;         // [pairs], transposed
    bf16* d_scores_t;  // [pairs], transposed

    DenseScratch(Arena& arena, std::int64_t rows, std::int64_t pairs)
        : delta(arena.take<float>(rows)),
          scores(arena.take<float>(pairs)),
          d_p(arena.take<float>(pairs)),
          d_scores(arena.take<bf16>(pairs)),
          p_t(arena.take<bf16>(pairs)),
          d_scores_t(arena.take<bf16>(pairs)) {}
};

// A batch of `heads` score matrices. A row of one is a query (MHA: each head has its own matrix), or a query with one
// of its heads (MQA: all heads see the same positions, one matrix).
struct DenseWeights {
    const float* scores;        // [heads, rows, S]
    const float* d_p;           // [heads, rows, S]: dout . value
    const float* lse;           // of matrix h, row r: lse[r lse_row + h]
    const float* delta;         // the same
    const std::int32_t* start;  // [queries], or null for 0: the first position that a query sees
    bf16* d_scores;             // [heads, rows, S]
    bf16* p_t;                  // [heads, S, rows]
    bf16* d_scores_t;           // [heads, S, rows]
    std::int64_t heads, rows, S;
    std::int64_t lse_row;        // numbers of lse from a row to the next
    std::int64_t rows_of_query;  // row r is query r / rows_of_query
    std::int64_t end;            // query t sees the positions below min(S, end + t)
    float scale;
    Stream stream;
    // Who selected a position (attention/selectors.h), where queries do not see all of them: rows are queries. Or
    // null.
    const std::uint32_t* selectors = nullptr;  // [S, selector_words(rows)]
    // Whether out and lse came from these scores. Then, where p is 1, out is that position's value, dout . value and
    // delta are one sum in two orders, and dscore is 0 instead of what their roundings left.
    bool out_is_of_scores = false;
};
void dense_weights(const DenseWeights& call);

// delta[row] = sum of out dout over d_v columns. out, dout: [rows, d_v]
void dense_delta(const bf16* out, const bf16* dout, float* delta, std::int64_t rows, std::int64_t d_v, Stream stream);

// sums += parts for `rows` rows of `columns` numbers, which lie `sums_row` and `columns` apart.
void add_to_rows(float* sums, std::int64_t sums_row, const float* parts, std::int64_t rows, std::int64_t columns,
                 Stream stream);

}  // namespace dsa
