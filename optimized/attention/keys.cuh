// What a query sees, and where it lies, for every kind of attention: Keys of the kernels in this folder.
#pragma once

#include "optimized/hopper/numbers.h"

namespace dsa {

struct Bf16Row {
    const bf16* at;
    __device__ float operator[](std::int64_t c) const { return to_float(at[c]); }
};

// The latents that a row of kept indices names; all heads share them.
struct SelectedRows {
    const bf16* kv;            // [S, d]
    const std::int32_t* kept;  // [rows, k], -1 where a slot does not count
    std::int64_t k, d;

    __device__ std::int64_t slots(std::int64_t) const { return k; }
    __device__ std::int64_t position(std::int64_t row, std::int64_t slot) const { return kept[row * k + slot]; }
    __device__ Bf16Row key(std::int64_t position, std::int64_t) const { return {kv + position * d}; }
    __device__ Bf16Row value(std::int64_t position, std::int64_t) const { return {kv + position * d}; }
};

// A token of the FP8 cache: R_kv e4m3, a float32 scale a block of them, bf16 rotated dims. spec section 10. The
// latent is dequantised and rounded to bf16, as attention reads it. Bytes one by one: tiny tokens are not aligned.
struct CachedToken {
    const std::uint8_t* bytes;
    int R_kv, block;

    template <class T>
    __device__ T at(int offset) const {
        T bits = 0;
        for (int i = 0; i < static_cast<int>(sizeof(T)); ++i)
            bits = static_cast<T>(bits | static_cast<T>(T{bytes[offset + i]} << (8 * i)));
        return bits;
    }
    __device__ float operator[](std::int64_t column) const {
        const int c = static_cast<int>(column);
        const int scales = R_kv / block;
        if (c >= R_kv) return to_float(bf16{at<std::uint16_t>(R_kv + 4 * scales + 2 * (c - R_kv))});
        const float scale = __uint_as_float(at<std::uint32_t>(R_kv + 4 * (c / block)));
        return through_bf16(to_float(e4m3{bytes[c]}) * scale);
    }
};

// The cached tokens that a row of kept slots names. A slot is page x 64 + offset, and pages lie one after the other.
struct SelectedTokens {
    const std::uint8_t* tokens;  // [slots, bytes]
    const std::int32_t* kept;    // [rows, k], -1 where a slot does not count
    std::int64_t k, bytes;
    int R_kv, block;

    __device__ std::int64_t slots(std::int64_t) const { return k; }
    __device__ std::int64_t position(std::int64_t row, std::int64_t slot) const { return kept[row * k + slot]; }
    __device__ CachedToken key(std::int64_t position, std::int64_t) const {
        return {tokens + position * bytes, R_kv, block};
    }
    __device__ CachedToken value(std::int64_t position, std::int64_t head) const { return key(position, head); }
};

// What dense attention sees: query t stands at S - T + t.
struct Seen {
    const std::int32_t* start;  // [T], or null: from 0
    std::int64_t T, S;
    bool causal;

    __device__ std::int64_t first(std::int64_t t) const { return start == nullptr || start[t] < 0 ? 0 : start[t]; }
    __device__ std::int64_t end(std::int64_t t) const { return causal ? S - T + t + 1 : S; }
};

// Positions in a row, of latents that all heads share (MQA), or of each head's own keys and values (MHA).
struct SeenRows {
    const bf16* keys;    // [S, key_heads, d]
    const bf16* values;  // [S, key_heads, value_width]; MQA: the keys again
    Seen seen;
    std::int64_t d, value_width, key_heads;  // key_heads: 1 or H

    __device__ std::int64_t slots(std::int64_t row) const { return seen.end(row) - seen.first(row); }
    __device__ std::int64_t position(std::int64_t row, std::int64_t slot) const { return seen.first(row) + slot; }
    __device__ std::int64_t place(std::int64_t position, std::int64_t head) const {
        return position * key_heads + (key_heads == 1 ? 0 : head);
    }
    __device__ Bf16Row key(std::int64_t position, std::int64_t head) const {
        return {keys + place(position, head) * d};
    }
    __device__ Bf16Row value(std::int64_t position, std::int64_t head) const {
        return {values + place(position, head) * value_width};
    }
};

}  // namespace dsa
