// Which tiles of y a block works on where the counts of rows are known on the device only: matrix h has as many rows
// of tiles as its rows fill, counted once by every block for itself. Tiles are numbered matrix by matrix, in a matrix
// column by column, and block b takes the tiles b, b + blocks, ...: those that run at the same time share x and W.
#pragma once

#include "optimized/linear/rows.cuh"
#include "optimized/support/multiprocessors.h"

namespace dsa {

inline constexpr int most_matrices = 512;

struct TilesBefore {
    int of[most_matrices + 1];  // rows of tiles before those of matrix h
};

// One warp; the others wait for it at the next barrier.
__device__ inline void count_tiles(TilesBefore& before, const Linear& call, int tile_rows) {
    const int heads = static_cast<int>(call.heads);
    int sum = 0;
    for (int h0 = 0; h0 < heads; h0 += warp_size) {
        const int h = h0 + lane_id();
        const int rows = h < heads ? static_cast<int>(rows_of(call, h).count) : 0;
        int through = (rows + tile_rows - 1) / tile_rows;  // tiles of the lanes as far as this one
#pragma unroll
        for (int d = 1; d < warp_size; d *= 2) {
            const int lower = __shfl_up_sync(all_lanes, through, static_cast<unsigned>(d));
            through += lane_id() >= d ? lower : 0;
        }
        if (h < heads) before.of[h + 1] = sum + through;
        sum += __shfl_sync(all_lanes, through, warp_size - 1);
    }
    if (lane_id() == 0) before.of[0] = 0;
}

struct Tile {
    int h;
    std::int64_t row;  // y's row at which it begins
    int rows;          // of y
    int column;
};
// heads: of them; across: columns of tiles
__device__ inline Tile tile_of(const TilesBefore& before, const Linear& call, int number, int across,
                               int tile_columns) {
    int h = 0;
    for (int end = static_cast<int>(call.heads); end - h > 1;) {  // before.of[h] across <= number < before.of[end] ..
        const int middle = (h + end) / 2;
        (before.of[middle] * across <= number ? h : end) = middle;
    }
    // Its rows are divided evenly: tiles that share a piece of W take the same time, so that blocks that began with
    // them together meet at W in the next ones too, and read it from the L2 cache.
    const int down = before.of[h + 1] - before.of[h];
    const int in_matrix = number - before.of[h] * across;
    const Rows rows = rows_of(call, h);
    const int each = (static_cast<int>(rows.count) + down - 1) / down;
    const int skipped = in_matrix % down * each;
    const int left = static_cast<int>(rows.count) - skipped;
    return {h, rows.first + skipped, left < each ? left : each, in_matrix / down * tile_columns};
}

}  // namespace dsa
