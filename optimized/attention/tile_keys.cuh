// Keys of the tile kernel: what a group of q's rows sees, and how 8 numbers of it come to shared memory.
#pragma once

#include "optimized/attention/keys.cuh"
#include "optimized/attention/tile_of_keys.cuh"

namespace dsa {

// Selected latents for some heads of a query.
template <int heads>
struct SelectedTile : HeadsOfOneQuery<heads> {
    static constexpr bool values_lie_apart = false;
    SelectedRows rows;

    __device__ Span span(std::int64_t) const { return {0, rows.k}; }
    __device__ std::int64_t position(std::int64_t group, std::int64_t slot) const {
        return rows.position(this->query(group), slot);
    }
    __device__ bool sees(std::int64_t, int, std::int64_t) const { return true; }
    __device__ Piece key(std::int64_t, std::int64_t position, int c) const {
        return *reinterpret_cast<const Piece*>(rows.kv + position * rows.d + c);
    }
};

// Selected tokens of the FP8 cache for some heads of a query. Tokens begin at multiples of 4 bytes.
template <int heads>
struct SelectedTokenTile : HeadsOfOneQuery<heads> {
    static constexpr bool values_lie_apart = false;
    SelectedTokens tokens;

    __device__ Span span(std::int64_t) const { return {0, tokens.k}; }
    __device__ std::int64_t position(std::int64_t group, std::int64_t slot) const {
        return tokens.position(this->query(group), slot);
    }
    __device__ bool sees(std::int64_t, int, std::int64_t) const { return true; }
    __device__ Piece key(std::int64_t, std::int64_t position, int c) const {
        const auto* token = reinterpret_cast<const std::uint32_t*>(tokens.tokens + position * tokens.bytes);
        const int scales_at = tokens.R_kv / 4;
        Piece piece;
        if (c >= tokens.R_kv) {
            const std::uint32_t* rotated = token + scales_at + tokens.R_kv / tokens.block + (c - tokens.R_kv) / 2;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const std::uint32_t pair = rotated[i];
                piece.v[2 * i] = {static_cast<std::uint16_t>(pair & 0xffffU)};
                piece.v[2 * i + 1] = {static_cast<std::uint16_t>(pair >> 16)};
            }
            return piece;
        }
        const float scale = __uint_as_float(token[scales_at + c / tokens.block]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const std::uint32_t four = token[c / 4 + i];
#pragma unroll
            for (int j = 0; j < 4; ++j)
                piece.v[4 * i + j] = to_bf16(to_float(e4m3{static_cast<std::uint8_t>(four >> (8 * j))}) * scale);
        }
        return piece;
    }
};

// All positions, of latents that some heads of a query share.
template <int heads>
struct SeenTile : HeadsOfOneQuery<heads> {
    static constexpr bool values_lie_apart = false;
    const bf16* kv;  // [S, d]
    Seen seen;
    std::int64_t d;

    __device__ Span span(std::int64_t group) const {
        const std::int64_t t = this->query(group);
        return {seen.first(t), seen.end(t)};
    }
    __device__ std::int64_t position(std::int64_t, std::int64_t slot) const { return slot; }
    __device__ bool sees(std::int64_t, int, std::int64_t) const { return true; }
    __device__ Piece key(std::int64_t, std::int64_t position, int c) const {
        return *reinterpret_cast<const Piece*>(kv + position * d + c);
    }
};

// All positions, of one head's own keys and values, for some queries of that head: group = tile of queries x H +
// head.
template <int queries>
struct OwnHeadTile {
    static constexpr bool values_lie_apart = true;
    const bf16* keys;    // [S, H, d]
    const bf16* values;  // [S, H, d_v]
    Seen seen;
    std::int64_t H, d, d_v;

    __device__ std::int64_t query(std::int64_t group, int r) const { return group / H * queries + r; }
    __device__ std::int64_t row(std::int64_t group, int r) const {
        return query(group, r) < seen.T ? query(group, r) * H + group % H : -1;
    }
    // From the first position that any of the queries sees to the end of the last.
    __device__ Span span(std::int64_t group) const {
        Span all{seen.S, 0};
        for (int r = 0; r < queries && query(group, r) < seen.T; ++r) {
            all.first = min(all.first, seen.first(query(group, r)));
            all.end = max(all.end, seen.end(query(group, r)));
        }
        return all;
    }
    __device__ std::int64_t position(std::int64_t, std::int64_t slot) const { return slot; }
    __device__ bool sees(std::int64_t group, int r, std::int64_t position) const {
        const std::int64_t t = query(group, r);
        return t < seen.T && position >= seen.first(t) && position < seen.end(t);
    }
    __device__ Piece key(std::int64_t group, std::int64_t position, int c) const {
        return *reinterpret_cast<const Piece*>(keys + (position * H + group % H) * d + c);
    }
    __device__ Piece value(std::int64_t group, std::int64_t position, int c) const {
        return *reinterpret_cast<const Piece*>(values + (position * H + group % H) * d_v + c);
    }
};

}  // namespace dsa
