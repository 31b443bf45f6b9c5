// Level 2. A tile of y is 64 x 64, of 4 warps with 32 x 32 each; x and W come to shared memory as they are stored, 16
// bytes a load and 64 bytes of k a round, W column by column, and the tensor cores multiply. Of e4m3 numbers the sum
// over 128 of k, which share their scales, is made first and then scaled.
#include "optimized/hopper/mma.h"
#include "optimized/linear/rows.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int tile = 64;       // rows, and columns, of a block
constexpr int warp_tile = 32;  // of a warp
constexpr int warps = 4;
constexpr int threads = warps * warp_size;
constexpr int round_bytes = 64;  // of k
constexpr int piece_bytes = 16;
constexpr int row_bytes = round_bytes + piece_bytes;  // 16 beyond, so that 8 rows lie in different banks
constexpr int row_tiles = warp_tile / mma_rows;
constexpr int column_tiles = warp_tile / mma_columns;

struct Shared {
    unsigned char x[tile][row_bytes];  // [row, k]
    unsigned char w[tile][row_bytes];  // [n, k]
};

struct alignas(piece_bytes) Piece {
    unsigned char v[piece_bytes];
};

template <class T>
constexpr int in_piece = piece_bytes / static_cast<int>(sizeof(T));  // numbers
template <class T>
constexpr int in_round = round_bytes / static_cast<int>(sizeof(T));

template <class T>
__device__ const T* x_of(const Linear& call) {
    if constexpr (sizeof(T) == 1)
        return call.x_e4m3;
    else
        return call.x;
}
template <class T>
__device__ const T* w_of(const Linear& call) {
    if constexpr (sizeof(T) == 1)
        return call.w_e4m3;
    else
        return call.w;
}

// The round of x that begins at k_0; 0 past the last row and the last k.
template <class T>
__device__ void bring_x(Shared& memory, const Linear& call, std::int64_t h, const Rows& rows, std::int64_t row_0,
                        std::int64_t k_0) {
    constexpr int pieces = round_bytes / piece_bytes;
    for (int i = static_cast<int>(threadIdx.x); i < tile * pieces; i += threads) {
        const int r = i / pieces;
        const int part = i % pieces;
        const std::int64_t k = k_0 + part * in_piece<T>;
        Piece piece{};
        if (row_0 + r < rows.count && k < call.K) {
            const std::int64_t row = x_row_of(call, rows.first + row_0 + r);
            piece = *reinterpret_cast<const Piece*>(x_of<T>(call) + h * call.x_head + row * call.x_row + k);
        }
        *reinterpret_cast<Piece*>(&memory.x[r][part * piece_bytes]) = piece;
    }
}

// The round of W: where k is side by side as x is brought; else pieces of a row of W go down the columns' places.
template <class T, bool k_side_by_side>
__device__ void bring_w(Shared& memory, const Linear& call, std::int64_t h, std::int64_t k_0, std::int64_t n_0) {
    const T* w = w_of<T>(call) + h * call.w_head;
    if constexpr (k_side_by_side) {
        constexpr int pieces = round_bytes / piece_bytes;
        for (int i = static_cast<int>(threadIdx.x); i < tile * pieces; i += threads) {
            const int c = i / pieces;
            const int part = i % pieces;
            const std::int64_t k = k_0 + part * in_piece<T>;
            Piece piece{};
            if (n_0 + c < call.N && k < call.K) piece = *reinterpret_cast<const Piece*>(w + (n_0 + c) * call.w_n + k);
            *reinterpret_cast<Piece*>(&memory.w[c][part * piece_bytes]) = piece;
        }
    } else {
        constexpr int pieces = tile / in_piece<T>;
        for (int i = static_cast<int>(threadIdx.x); i < in_round<T> * pieces; i += threads) {
            const int r = i / pieces;
            const int c = i % pieces * in_piece<T>;
            Piece piece{};
            if (k_0 + r < call.K && n_0 + c < call.N)
                piece = *reinterpret_cast<const Piece*>(w + (k_0 + r) * call.w_k + n_0 + c);
            const T* numbers = reinterpret_cast<const T*>(&piece);
#pragma unroll
            for (int j = 0; j < in_piece<T>; ++j) reinterpret_cast<T*>(memory.w[c + j])[r] = numbers[j];
        }
    }
}

template <class T, bool k_side_by_side>
__global__ void __launch_bounds__(threads) linear_mma(__grid_constant__ const Linear call) {
    constexpr bool scaled = sizeof(T) == 1;
    Shared& memory = shared<Shared>();
    const std::int64_t h = blockIdx.z;
    const Rows rows = rows_of(call, h);
    const std::int64_t row_0 = std::int64_t{blockIdx.y} * tile;
    const std::int64_t n_0 = std::int64_t{blockIdx.x} * tile;
    if (row_0 >= rows.count) return;
    const int warp_row = warp_id() / 2 * warp_tile;
    const int warp_column = warp_id() % 2 * warp_tile;

    float sum[row_tiles][column_tiles][4] = {};
    [[maybe_unused]] float total[row_tiles][column_tiles][4] = {};
    for (std::int64_t k_0 = 0; k_0 < call.K; k_0 += in_round<T>) {
        bring_x<T>(memory, call, h, rows, row_0, k_0);
        bring_w<T, k_side_by_side>(memory, call, h, k_0, n_0);
        __syncthreads();
#pragma unroll
        for (int at = 0; at < round_bytes; at += mma_bytes) {
            std::uint32_t a[row_tiles][4], b[column_tiles][2];
#pragma unroll
            for (int i = 0; i < row_tiles; ++i) load_a(a[i], &memory.x[warp_row + i * mma_rows][at], row_bytes);
#pragma unroll
            for (int j = 0; j < column_tiles; ++j)
                load_b(b[j], &memory.w[warp_column + j * mma_columns][at], row_bytes);
#pragma unroll
            for (int i = 0; i < row_tiles; ++i)
#pragma unroll
                for (int j = 0; j < column_tiles; ++j) mma<T>(sum[i][j], a[i], b[j]);
        }
        if constexpr (scaled) {
            const std::int64_t next = k_0 + in_round<T>;
            if (next % scale_block == 0 || next >= call.K) {
                const float w_scale = w_scale_of(call, h, k_0, n_0);
#pragma unroll
                for (int i = 0; i < row_tiles; ++i)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const std::int64_t row = row_0 + warp_row + i * mma_rows + half * 8 + mma_row(lane_id());
                        const float scale = row < rows.count
                                                ? w_scale * x_scale_of(call, x_row_of(call, rows.first + row), k_0)
                                                : 0.0F;
#pragma unroll
                        for (int j = 0; j < column_tiles; ++j)
#pragma unroll
                            for (int side = 2 * half; side < 2 * half + 2; ++side) {
                                total[i][j][side] += sum[i][j][side] * scale;
                                sum[i][j][side] = 0.0F;
                            }
                    }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < row_tiles; ++i)
#pragma unroll
        for (int j = 0; j < column_tiles; ++j)
#pragma unroll
            for (int side = 0; side < 4; ++side) {
                const std::int64_t row = row_0 + warp_row + i * mma_rows + side / 2 * 8 + mma_row(lane_id());
                const std::int64_t n = n_0 + warp_column + j * mma_columns + mma_column(lane_id()) + side % 2;
                if (row >= rows.count || n >= call.N) continue;
                store_y(call, h, rows.first + row, n, scaled ? total[i][j][side] : sum[i][j][side]);
            }
}

template <class T, bool k_side_by_side>
void start(const Linear& call) {
    launch("linear_mma", linear_mma<T, k_side_by_side>,
           {.blocks = blocks_for(call.N, tile),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.T, tile),
            .blocks_z = call.heads},
           call);
}

bool whole_pieces(const void* first, std::initializer_list<std::int64_t> counts, std::int64_t numbers) {
    if (reinterpret_cast<std::uintptr_t>(first) % piece_bytes != 0) return false;
    for (const std::int64_t count : counts)
        if (count % numbers != 0) return false;
    return true;
}

}  // namespace

std::string linear_level_2_declines(const Linear& call) {
    if (call.w_float32 != nullptr || call.x_float32 != nullptr) return "the tensor cores round float32 numbers";
    const bool is_e4m3 = call.w_e4m3 != nullptr;
    const int numbers = is_e4m3 ? in_piece<e4m3> : in_piece<bf16>;
    const void* x = is_e4m3 ? static_cast<const void*>(call.x_e4m3) : call.x;
    const void* w = is_e4m3 ? static_cast<const void*>(call.w_e4m3) : call.w;
    if (call.w_k != 1 && call.w_n != 1) return "k or n must lie side by side in W";
    const std::int64_t side_by_side = call.w_k == 1 ? call.K : call.N;
    const std::int64_t apart = call.w_k == 1 ? call.w_n : call.w_k;
    if (!whole_pieces(x, {call.K, call.x_row, call.x_head}, numbers) ||
        !whole_pieces(w, {side_by_side, apart, call.w_head}, numbers))
        return sentence("rows of x and W must begin at, and be of, multiples of ", piece_bytes, " bytes");
    return {};
}

void linear_level_2(const Linear& call) {
    if (call.w_e4m3 != nullptr) return call.w_k == 1 ? start<e4m3, true>(call) : start<e4m3, false>(call);
    return call.w_k == 1 ? start<bf16, true>(call) : start<bf16, false>(call);
}

}  // namespace dsa
