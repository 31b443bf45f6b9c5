// Attention on the tensor cores: a block has 16 or 64 rows of q that see the same keys. It brings 64 keys at a time
// to shared memory, once for all its rows; the products q k^T and p v are mma.sync's, between them is one step of the
// running softmax. A row's keys may be split over several blocks, whose parts are then added under their common
// maximum.
#pragma once

#include "optimized/attention/softmax.cuh"
#include "optimized/hopper/mma.h"
#include "optimized/support/launch.h"

namespace dsa {

// What a block of a split row leaves; null where rows are not split. With d_v = 0 it is a softmax alone: no out.
struct AttentionParts {
    float* out;      // [splits, rows H, d_v], under the part's own maximum, not divided
    float* maximum;  // [splits, rows H]
    float* sum;      // [splits, rows H]
};

struct Span {
    std::int64_t first, end;
};

struct alignas(16) Piece {
    bf16 v[8];
};

// A group of q's rows: `heads` of one query's heads.
template <int heads>
struct HeadsOfOneQuery {
    std::int64_t H;
    __device__ std::int64_t groups() const { return (H + heads - 1) / heads; }  // a query
    __device__ std::int64_t query(std::int64_t group) const { return group / groups(); }
    // A row of the group as a row of q, [rows H]; -1 past the last head.
    __device__ std::int64_t row(std::int64_t group, int r) const {
        const std::int64_t head = group % groups() * heads + r;
        return head < H ? query(group) * H + head : -1;
    }
};

namespace tile_of_keys {

constexpr int keys_each = 64;  // of a tile
constexpr int warps = 8;
constexpr int threads = warps * warp_size;
constexpr int widest = 576;               // d
constexpr int widest_value = 512;         // d_v
constexpr int in_piece = 8;               // numbers of 16 bytes
constexpr int pitch = widest + in_piece;  // 8 rows of a fragment lie in different banks
constexpr int p_pitch = keys_each + in_piece;
constexpr int key_tiles = keys_each / mma_columns;
constexpr int value_tiles = widest_value / mma_columns / warps;  // a warp

template <int rows>
struct Shared {
    bf16 q[rows][pitch];
    bf16 keys[keys_each][pitch];  // and then, where they lie apart, the values
    bf16 p[rows][p_pitch];
    float logits[rows][keys_each + 4];
    float maximum[rows];
    float sum[rows];
    float rescaling[rows];
    std::int64_t positions[keys_each];  // -1: nothing
};

__device__ inline std::uint32_t pair_of(bf16 low, bf16 high) {
    return low.bits | static_cast<std::uint32_t>(high.bits) << 16;
}

// The column n of the rows k, k + 1, k + 8 and k + 9: the fragment of B = v, which lies row by row.
template <int rows>
__device__ void load_b_of_rows(std::uint32_t (&b)[2], const bf16 (&v)[rows][pitch], int k, int n) {
    b[0] = pair_of(v[k][n], v[k + 1][n]);
    b[1] = pair_of(v[k + 8][n], v[k + 9][n]);
}

// Rows that take their pieces from bring(row, piece); 0 past `width`.
template <int rows, class Bring>
__device__ void fill(bf16 (&to)[rows][pitch], int width, Bring bring) {
    const int pieces = (width + mma_bytes / 2 - 1) / (mma_bytes / 2) * 2;  // whole steps of a product
    for (int i = static_cast<int>(threadIdx.x); i < rows * pieces; i += threads) {
        const int r = i / pieces;
        const int c = i % pieces * in_piece;
        *reinterpret_cast<Piece*>(&to[r][c]) = c < width ? bring(r, c) : Piece{};
    }
}

// logits = scale q k^T where a row sees the key, else -inf. A warp has `rows / 16` tiles of 16 x 8 side by side.
template <int rows, class Keys>
__device__ void score(Shared<rows>& memory, const Keys& keys, std::int64_t group, float scale, int d) {
    constexpr int mine = rows / mma_rows;  // of the rows / 16 * 8 tiles of 8 warps
    const int m = warp_id() * mine / key_tiles * mma_rows;
    const int n = warp_id() * mine % key_tiles * mma_columns;
    float c[mine][4] = {};
    for (int k = 0; k < d; k += mma_bytes / 2) {
        std::uint32_t a[4];
        load_a(a, &memory.q[m][k], sizeof memory.q[0]);
#pragma unroll
        for (int j = 0; j < mine; ++j) {
            std::uint32_t b[2];
            load_b(b, &memory.keys[n + j * mma_columns][k], sizeof memory.keys[0]);
            mma<bf16>(c[j], a, b);
        }
    }
#pragma unroll
    for (int j = 0; j < mine; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = m + mma_row(lane_id()) + i / 2 * 8;
            const int column = n + j * mma_columns + mma_column(lane_id()) + i % 2;
            const std::int64_t position = memory.positions[column];
            const bool sees = position >= 0 && keys.sees(group, row, position);
            memory.logits[row][column] = sees ? c[j][i] * scale : minus_infinity();
        }
}

// One step of the running softmax: p of this tile, and what older sums are multiplied by. A warp has every 8th row.
template <int rows>
__device__ void step(Shared<rows>& memory) {
    for (int row = warp_id(); row < rows; row += warps) {
        const float low = memory.logits[row][lane_id()];
        const float high = memory.logits[row][lane_id() + warp_size];
        const float before = memory.maximum[row];
        const float maximum = Largest()(before, over_warp(Largest()(low, high), Largest()));
        const float p_low = low == minus_infinity() ? 0.0F : expf(low - maximum);
        const float p_high = high == minus_infinity() ? 0.0F : expf(high - maximum);
        const float sum = over_warp(p_low + p_high, Sum());
        memory.p[row][lane_id()] = to_bf16(p_low);
        memory.p[row][lane_id() + warp_size] = to_bf16(p_high);
        __syncwarp();  // all lanes have read the maximum
        if (lane_id() != 0) continue;
        memory.maximum[row] = maximum;
        memory.rescaling[row] = rescaling(before, maximum);
        memory.sum[row] = memory.sum[row] * memory.rescaling[row] + sum;
    }
}

// out = rescaling out + p v. A warp has every 8th tile of 8 columns.
template <int rows>
__device__ void weigh(const Shared<rows>& memory, float (&out)[rows / mma_rows][value_tiles][4], int d_v) {
    const int g = mma_row(lane_id());
#pragma unroll
    for (int m = 0; m < rows / mma_rows; ++m) {
        const float up = memory.rescaling[m * mma_rows + g];
        const float down = memory.rescaling[m * mma_rows + g + 8];
#pragma unroll
        for (int j = 0; j < value_tiles; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) out[m][j][i] *= i < 2 ? up : down;
    }
#pragma unroll
    for (int k = 0; k < keys_each; k += mma_bytes / 2) {
        std::uint32_t a[rows / mma_rows][4];
#pragma unroll
        for (int m = 0; m < rows / mma_rows; ++m) load_a(a[m], &memory.p[m * mma_rows][k], sizeof memory.p[0]);
#pragma unroll
        for (int j = 0; j < value_tiles; ++j) {
            const int n = (warp_id() + j * warps) * mma_columns;
            if (n >= d_v) continue;
            std::uint32_t b[2];
            load_b_of_rows(b, memory.keys, k + mma_column(lane_id()), n + g);
#pragma unroll
            for (int m = 0; m < rows / mma_rows; ++m) mma<bf16>(out[m][j], a[m], b);
        }
    }
}

// Keys says which rows of q a group has, what they see and where it lies:
//   row(group, r) of q, -1 for none;  span(group) of slots;  position(group, slot), -1: skipped;
//   sees(group, r, position);  key(group, position, c) and value(group, position, c), 8 numbers from column c.
// q: [rows H, d]. Block (group, split); a split has `tiles_each` tiles.
template <int rows, class Keys>
__global__ void __launch_bounds__(threads)
    attend(Keys keys, const bf16* q, AttentionResult result, AttentionParts parts, std::int64_t all_rows,
           std::int64_t H, int d, int d_v, std::int64_t tiles_each) {
    auto& memory = shared<Shared<rows>>();
    const std::int64_t group = blockIdx.x;
    fill(memory.q, d, [&](int r, int c) {
        const std::int64_t row = keys.row(group, r);
        return row < 0 ? Piece{} : *reinterpret_cast<const Piece*>(q + row * d + c);
    });
    for (int r = static_cast<int>(threadIdx.x); r < rows; r += threads) {
        memory.maximum[r] = minus_infinity();
        memory.sum[r] = 0.0F;
    }
    float out[rows / mma_rows][value_tiles][4] = {};
    const Span span = keys.span(group);
    const std::int64_t from = span.first + blockIdx.y * tiles_each * keys_each;
    const std::int64_t to = min(span.end, from + tiles_each * keys_each);
    for (std::int64_t first = from; first < to; first += keys_each) {
        for (int i = static_cast<int>(threadIdx.x); i < keys_each; i += threads)
            memory.positions[i] = first + i < to ? keys.position(group, first + i) : -1;
        __syncthreads();
        fill(memory.keys, d, [&](int i, int c) {
            return memory.positions[i] < 0 ? Piece{} : keys.key(group, memory.positions[i], c);
        });
        __syncthreads();
        score(memory, keys, group, result.scale, d);
        __syncthreads();
        step(memory);
        if constexpr (Keys::values_lie_apart)
            fill(memory.keys, d_v, [&](int i, int c) {
                return memory.positions[i] < 0 ? Piece{} : keys.value(group, memory.positions[i], c);
            });
        __syncthreads();
        weigh(memory, out, d_v);
        __syncthreads();
    }
    __syncthreads();  // for a block without a tile: the first maxima and sums
    const std::int64_t part = std::int64_t{blockIdx.y} * all_rows;
#pragma unroll
    for (int m = 0; m < rows / mma_rows; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int r = m * mma_rows + mma_row(lane_id()) + half * 8;
            const std::int64_t row = keys.row(group, r);
            if (row < 0) continue;
            const float maximum = memory.maximum[r];
            const float below = denominator(result, row % H, maximum, memory.sum[r]);
#pragma unroll
            for (int j = 0; j < value_tiles; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int column = (warp_id() + j * warps) * mma_columns + mma_column(lane_id()) + i;
                    if (column >= d_v) continue;
                    const float x = out[m][j][2 * half + i];
                    if (parts.maximum != nullptr)
                        parts.out[(part + row) * d_v + column] = x;
                    else
                        result.out[row * d_v + column] = to_bf16(maximum == minus_infinity() ? 0.0F : x / below);
                }
        }
    for (int r = static_cast<int>(threadIdx.x); r < rows; r += threads) {
        const std::int64_t row = keys.row(group, r);
        if (row < 0) continue;
        if (parts.maximum != nullptr) {
            parts.maximum[part + row] = memory.maximum[r];
            parts.sum[part + row] = memory.sum[r];
            continue;
        }
        result.lse[row] = told_lse(result, memory.maximum[r], memory.sum[r]);
        if (result.max_logit != nullptr) result.max_logit[row] = memory.maximum[r];
    }
}

}  // namespace tile_of_keys

// Why the kernel does not take these widths; empty if it does. Rows are read 16 bytes at a time.
inline std::string tile_of_keys_declines(std::int64_t d, std::int64_t d_v) {
    using namespace tile_of_keys;
    if (d <= widest && d_v <= widest_value && d % in_piece == 0) return {};
    return sentence("rows must be of a multiple of ", in_piece, " numbers, of at most ", widest,
                    ", with a value of at most ", widest_value, "; they are of ", d, " and ", d_v);
}

// groups: of `rows` rows of q each. all_rows: rows of q.
template <int rows, class Keys>
void attend_tile_of_keys(const char* name, const Keys& keys, const bf16* q, const AttentionResult& result,
                         std::int64_t groups, std::int64_t all_rows, std::int64_t H, std::int64_t d, std::int64_t d_v,
                         Stream stream, const AttentionParts& parts = {}, std::int64_t splits = 1,
                         std::int64_t tiles_each = std::int64_t{1} << 40) {
    using namespace tile_of_keys;
    launch(name, attend<rows, Keys>,
           {.blocks = groups,
            .threads = threads,
            .shared_bytes = sizeof(Shared<rows>),
            .stream = stream,
            .blocks_y = splits},
           keys, q, result, parts, all_rows, H, static_cast<int>(d), static_cast<int>(d_v), tiles_each);
}

}  // namespace dsa
