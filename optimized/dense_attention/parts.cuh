// How level 3 divides a call among clusters of two blocks, and how parts of a query's keys become the result.
#pragma once

#include <cmath>
#include <limits>

#include "optimized/attention/keys.cuh"
#include "optimized/attention/latent_tile.cuh"
#include "optimized/dense_attention/op.h"
#include "optimized/hopper/dependent.h"
#include "optimized/hopper/warp.h"
#include "optimized/support/arena.h"
#include "optimized/support/launch.h"

namespace dsa::dense_latents {

inline constexpr int blocks = 2;  // of a cluster
inline constexpr int group_rows = blocks * latent_tile::heads;
inline constexpr int tile_keys = 48;

// q's rows are [T H, d]: a group is 128 of them, whoever's heads they are. Where there are fewer groups than clusters
// the keys of each are divided into parts. It follows from the sizes alone: the same bits on every device.
struct Plan {
    static constexpr int most_parts = 128;
    int rows, groups, parts = 1;

    explicit Plan(const DenseAttention& call)
        : rows(static_cast<int>(call.T * call.H)), groups(static_cast<int>(blocks_for(rows, group_rows))) {
        const auto tiles = static_cast<int>(std::max<std::int64_t>(1, blocks_for(call.S, tile_keys)));
        double best = 1e30;
        for (int count = 1; count <= std::min(tiles, most_parts); ++count) {
            const double time = predicted(tiles, count);
            if (time < best) best = time, parts = count;
        }
    }
    // Microseconds on an H100: rounds of clusters, and the parts, which a cluster stores and another kernel reads.
    double predicted(int tiles, int count) const {
        constexpr double clusters = 66, an_item = 6.0, a_tile = 1.1, adding = 4.0, bytes_a_us = 3e6;
        const double time = std::ceil(1.0 * groups * count / clusters) * (an_item + a_tile * tiles / count);
        return count == 1 ? time : time + adding + 2.0 * rows * count * latent_tile::d_v * 4 / bytes_a_us;
    }
    int items() const { return groups * parts; }
};

// What a part leaves. Null where nothing is divided.
struct Parts {
    float* sums = nullptr;       // [parts, rows, d_v], not divided
    float* reference = nullptr;  // [parts, rows], in units of a logit
    float* sum = nullptr;        // [parts, rows]

    Parts(const Plan& plan, Arena& arena) {
        if (plan.parts == 1) return;
        const std::int64_t all = std::int64_t{plan.parts} * plan.rows;
        sums = arena.take<float>(all * latent_tile::d_v);
        reference = arena.take<float>(all);
        sum = arena.take<float>(all);
    }
};

// Positions that a cluster goes through; a tile may reach beyond the end.
struct Range {
    int first, end, tiles;
};

struct Work {
    const bf16* q;  // [rows, d]
    Seen seen;
    AttentionResult result;
    Parts parts;
    int H, rows, groups, part_count, items;

    // Groups with the most keys come first, and clusters take turns in taking the longest.
    __device__ int item(int round) const {
        const int clusters = static_cast<int>(gridDim.x) / blocks, mine = static_cast<int>(blockIdx.x) / blocks;
        const int at = round * clusters + (round % 2 == 0 ? mine : clusters - 1 - mine);
        return at < items ? at : -1;
    }
    __device__ int group(int item) const { return groups - 1 - item / part_count; }
    __device__ int part(int item) const { return item % part_count; }
    // Of this block's 64 rows.
    __device__ int first_row(int item) const {
        return group(item) * group_rows + static_cast<int>(blockIdx.x) % blocks * latent_tile::heads;
    }
    // Whole warps come. Of all queries of the group.
    __device__ Range range(int item) const {
        const int from = group(item) * group_rows;
        const int last = min(from + group_rows, rows) - 1;
        auto first = static_cast<std::int32_t>(seen.S);
        for (int t = from / H + lane_id(); t <= last / H; t += warp_size)
            first = min(first, static_cast<std::int32_t>(min(seen.first(t), seen.S)));
        first = redux_min(first);
        const int end = static_cast<int>(seen.end(last / H));
        const std::int64_t tiles = max(1, (end - first + tile_keys - 1) / tile_keys);
        const auto begin = static_cast<int>(tiles * part(item) / part_count);
        const auto next = static_cast<int>(tiles * (part(item) + 1) / part_count);
        return {first + begin * tile_keys, first + next * tile_keys, max(1, next - begin)};
    }
};

struct alignas(8) Two {
    float at[2];
};

inline constexpr int column_threads = latent_tile::d_v / 4;  // four columns each
inline constexpr int adders = 4;                             // that share the parts
inline constexpr int adding_threads = adders * column_threads;
struct alignas(16) Four {
    float at[4];
};
struct Adding {
    Four sums[adders][column_threads];
    float weight[Plan::most_parts];
    float fold[32];
};

// Block: a row of q. The order of the sums is the same in every run.
__global__ inline void __launch_bounds__(adding_threads)
    add_parts(Parts parts, AttentionResult result, int rows, int H, int count) {
    wait_for_previous_kernel();
    auto& memory = shared<Adding>();
    const int row = static_cast<int>(blockIdx.x), i = static_cast<int>(threadIdx.x);
    const bool mine = i < count;
    const float reference = mine ? parts.reference[std::int64_t{i} * rows + row] : minus_infinity();
    const float part = mine ? parts.sum[std::int64_t{i} * rows + row] : 0.0F;
    const float largest = over_block(reference, memory.fold, Largest());
    const float weight = reference == minus_infinity() ? 0.0F : rescaling(reference, largest);
    const float sum = over_block(part * weight, memory.fold, Sum());
    if (mine) memory.weight[i] = weight;
    __syncthreads();
    const int column = i % column_threads, adder = i / column_threads;
    Four out{};
#pragma unroll 8
    for (int p = adder; p < count; p += adders) {
        const std::int64_t at = (std::int64_t{p} * rows + row) * latent_tile::d_v + 4 * column;
        const Four four = *reinterpret_cast<const Four*>(parts.sums + at);
#pragma unroll
        for (int j = 0; j < 4; ++j) out.at[j] += four.at[j] * memory.weight[p];
    }
    memory.sums[adder][column] = out;
    __syncthreads();
    if (adder != 0) return;
#pragma unroll
    for (int other = 1; other < adders; ++other)
#pragma unroll
        for (int j = 0; j < 4; ++j) out.at[j] += memory.sums[other][column].at[j];
    const bool counts = largest != minus_infinity();
    const float by = counts ? 1.0F / denominator(result, row % H, largest, sum) : 0.0F;
    auto* to = reinterpret_cast<std::uint32_t*>(result.out + std::int64_t{row} * latent_tile::d_v + 4 * column);
#pragma unroll
    for (int j = 0; j < 2; ++j) to[j] = to_bf16_pair(out.at[2 * j] * by, out.at[2 * j + 1] * by);
    if (i == 0) result.lse[row] = told_lse(result, largest, sum);
}

}  // namespace dsa::dense_latents
