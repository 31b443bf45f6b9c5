// The small steps between the parts of the chain: nothing here is worth a level.
#pragma once

#include "optimized/training_step/op.h"

namespace dsa {

// positions[t] = t, start[t] = 0, end[t] = t + 1: query t sees the positions up to its own. All [T]
void causal_rows(std::int32_t* positions, std::int32_t* start, std::int32_t* end, std::int64_t T, Stream stream);

void fill_zeros(float* numbers, std::int64_t count, Stream stream);

// Row tokens[t] of the table; NaN where that is none, since a call reads nothing back and cannot refuse it.
// table: [V, D]  -> y [T, D]
void look_up(const bf16* table, const std::int32_t* tokens, bf16* y, const TrainingSizes& sizes, Stream stream);
// Its gradient: what the tokens give that are the same, in their order; zeros for a word that does not occur.
// dy: [T, D]  -> dtable [V, D]
void look_up_backward(const std::int32_t* tokens, const bf16* dy, float* dtable, const TrainingSizes& sizes,
                      Stream stream);

// `rows` rows of `columns` numbers, which lie from_row and to_row apart.
void copy_columns(const bf16* from, std::int64_t from_row, bf16* to, std::int64_t to_row, std::int64_t rows,
                  std::int64_t columns, Stream stream);
void copy_columns(const float* from, std::int64_t from_row, float* to, std::int64_t to_row, std::int64_t rows,
                  std::int64_t columns, Stream stream);

// Rotates the first 2 x pairs numbers of each head by its token's position, or back. A head's numbers lie x_head
// apart, a token's x_row; y may be x's place.
struct Turned {
    const bf16* x;
    std::int64_t x_row, x_head;
    bf16* y;
    std::int64_t y_row, y_head;
    std::int64_t T, heads;
    RopeTable table;
    RopeLayout layout;
    bool back;
    Stream stream;
};
void turn_heads(const Turned& call);

// Each head's own keys and values. kv_heads [T, H, d_nope + d_v], k_rope [T, d_rope] -> k [T, H, d_q], v [T, H, d_v]
void own_keys(const bf16* kv_heads, const bf16* k_rope, bf16* k, bf16* v, const TrainingSizes& sizes, Stream stream);
// Back: one rotated key serves all heads, and gathers from all.
// dk [T, H, d_q], dv [T, H, d_v] -> d_kv_heads [T, H, d_nope + d_v], d_k_rope [T, d_rope]
void own_keys_backward(const float* dk, const bf16* dv, bf16* d_kv_heads, bf16* d_k_rope, const TrainingSizes& sizes,
                       Stream stream);

// y = a + b, added in float32 and stored once. [count]
void add_parts(const float* a, const float* b, bf16* y, std::int64_t count, Stream stream);

// y = x, and x scale where numbers are e4m3, one scale for `width` of them. [count]
void widen(const bf16* x, float* y, std::int64_t count, Stream stream);
void dequantise(const e4m3* x, const float* scale, float* y, std::int64_t count, std::int64_t width, Stream stream);
// y = x as it is stored. [count]
void narrow(const float* x, bf16* y, std::int64_t count, Stream stream);
// x = x factor, x rounded to bf16 before where `stored_as_bf16`. [count]
void scale_weights(float* x, float factor, bool stored_as_bf16, std::int64_t count, Stream stream);

// Three bf16 numbers whose sum is x but for 2^-25 of it, the smallest first. x: [count] -> y [3, count]
void split_in_three(const float* x, bf16* y, std::int64_t count, Stream stream);
// y = the sum of three parts as it is stored. parts: [3, count]
void add_three_parts(const float* parts, bf16* y, std::int64_t count, Stream stream);

// What was not selected is no candidate: -inf. A row in which top_k found a NaN becomes NaN. scores: [T, T],
// indices: [T, k], selectors: attention/selectors.h
void keep_selected_scores(float* scores, const std::int32_t* indices, const std::uint32_t* selectors, std::int64_t T,
                          std::int64_t k, Stream stream);

}  // namespace dsa
