// A block of 4 warps scores 128 keys at a time on the tensor cores. Keys are the rows of A, and stay in registers; a
// query's heads are the columns of B. So a thread holds, of its 4 keys, the dots of every fourth pair of heads: it
// takes ReLU, weighs and adds them as they arise, and two shuffles at the end join the 4 threads of a key.
#pragma once

#include "optimized/hopper/mma.h"
#include "optimized/indexer_logits/rows.cuh"

namespace dsa {

constexpr int scoring_warps = 4;
constexpr int scoring_threads = scoring_warps * warp_size;
constexpr int keys_of_a_warp = 2 * mma_rows;
constexpr int keys_of_a_tile = scoring_warps * keys_of_a_warp;
constexpr int heads_at_once = 64;  // in shared memory

struct alignas(16) SixteenBytes {
    unsigned char v[16];
};

// row_bytes: of a key, a multiple of 32.
template <int row_bytes>
struct ScoringShared {
    static constexpr int stride = row_bytes + 16;  // 16 beyond, so that 8 rows lie in different banks
    unsigned char keys[keys_of_a_tile][stride];
    unsigned char heads[heads_at_once][stride];
    float weights[heads_at_once];
};

template <int row_bytes>
struct KeysInRegisters {
    std::uint32_t a[2][row_bytes / mma_bytes][4];
};

// Keys s_0 ... of a group; all 0 where there is none.
template <int row_bytes, class Problem>
__device__ KeysInRegisters<row_bytes> bring_keys(ScoringShared<row_bytes>& memory, const Problem& problem,
                                                 std::int64_t group, std::int64_t s_0) {
    constexpr int pieces = row_bytes / 16;
    for (int i = static_cast<int>(threadIdx.x); i < keys_of_a_tile * pieces; i += scoring_threads) {
        const std::int64_t s = s_0 + i / pieces;
        const auto* key = reinterpret_cast<const SixteenBytes*>(s < problem.S() ? problem.key(group, s) : nullptr);
        SixteenBytes piece{};
        if (key != nullptr) piece = key[i % pieces];
        *reinterpret_cast<SixteenBytes*>(&memory.keys[i / pieces][i % pieces * 16]) = piece;
    }
    __syncthreads();
    KeysInRegisters<row_bytes> keys;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int at = 0; at < row_bytes / mma_bytes; ++at)
            load_a(keys.a[i][at], &memory.keys[warp_id() * keys_of_a_warp + i * mma_rows][at * mma_bytes],
                   ScoringShared<row_bytes>::stride);
    return keys;
}

// Heads first ... of query t and their weights; past the last head both are 0.
template <int row_bytes, class Problem>
__device__ void bring_heads(ScoringShared<row_bytes>& memory, const Problem& problem, std::int64_t t, int first) {
    constexpr int pieces = row_bytes / 16;
    const auto* from = reinterpret_cast<const SixteenBytes*>(problem.query(t)) + std::int64_t{first} * pieces;
    const int heads = min(heads_at_once, problem.H_I() - first);
    for (int i = static_cast<int>(threadIdx.x); i < heads_at_once * pieces; i += scoring_threads) {
        SixteenBytes piece{};
        if (i / pieces < heads) piece = from[i];
        *reinterpret_cast<SixteenBytes*>(&memory.heads[i / pieces][i % pieces * 16]) = piece;
    }
    for (int j = static_cast<int>(threadIdx.x); j < heads_at_once; j += scoring_threads)
        memory.weights[j] = j < heads ? problem.weights(t)[first + j] : 0.0F;
}

// A thread's keys: of row tile i those in rows mma_row(lane) and 8 further.
struct HeadSums {
    float of[2][2];
};

__device__ inline float weighed(float weight, float dot) { return weight * (dot < 0.0F ? 0.0F : dot); }  // NaN stays

// sum_j w_j ReLU(q_j . k) of query t and the keys in registers. All threads of the block come.
template <int row_bytes, class Problem>
__device__ HeadSums head_sums(ScoringShared<row_bytes>& memory, const Problem& problem, std::int64_t t,
                              const KeysInRegisters<row_bytes>& keys) {
    HeadSums sums{};
    for (int first = 0; first < problem.H_I(); first += heads_at_once) {
        __syncthreads();
        bring_heads(memory, problem, t, first);
        __syncthreads();
        const int heads = min(heads_at_once, problem.H_I() - first);
        for (int j = 0; j < heads; j += mma_columns) {
            float dots[2][4] = {};
#pragma unroll
            for (int at = 0; at < row_bytes / mma_bytes; ++at) {
                std::uint32_t b[2];
                load_b(b, &memory.heads[j][at * mma_bytes], ScoringShared<row_bytes>::stride);
#pragma unroll
                for (int i = 0; i < 2; ++i) mma<typename Problem::Number>(dots[i], keys.a[i][at], b);
            }
            const float w_0 = memory.weights[j + mma_column(lane_id())];
            const float w_1 = memory.weights[j + mma_column(lane_id()) + 1];
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    sums.of[i][half] += weighed(w_0, dots[i][2 * half]) + weighed(w_1, dots[i][2 * half + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int flip = 1; flip < 4; flip *= 2)
                sums.of[i][half] += __shfl_xor_sync(all_lanes, sums.of[i][half], flip);
    return sums;
}

// Which key of the tile a thread's sum (i, half) belongs to.
__device__ inline int key_of_sum(int i, int half) {
    return warp_id() * keys_of_a_warp + i * mma_rows + half * 8 + mma_row(lane_id());
}

// Block x = group x number of tiles + tile.
template <int row_bytes, class Problem>
__global__ void __launch_bounds__(scoring_threads)
    logits_tensor_cores(__grid_constant__ const Problem problem, std::int64_t tiles) {
    auto& memory = shared<ScoringShared<row_bytes>>();
    const std::int64_t group = blockIdx.x / tiles;
    const std::int64_t s_0 = blockIdx.x % tiles * keys_of_a_tile;
    const KeysInRegisters<row_bytes> keys = bring_keys(memory, problem, group, s_0);
    for (std::int64_t t = problem.first_query(group); t < problem.last_query(group); ++t) {
        const Range range = problem.range(t);
        const bool has_candidates = s_0 < range.end && s_0 + keys_of_a_tile > range.begin && range.begin < range.end;
        HeadSums sums{};
        if (has_candidates) sums = head_sums(memory, problem, t, keys);
        if (lane_id() % 4 != 0) continue;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const std::int64_t s = s_0 + key_of_sum(i, half);
                const bool is_candidate = s >= range.begin && s < range.end;
                if (s < problem.S())
                    problem.logits(t)[s] = is_candidate ? problem.score(sums.of[i][half], problem.key_scale(group, s))
                                                        : minus_infinity();
            }
    }
}

}  // namespace dsa
