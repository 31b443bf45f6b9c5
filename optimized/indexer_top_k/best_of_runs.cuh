// The last kernel of level 3: one block a query finds the k best among what its group's runs have left. They lie in
// no order, so what is chosen becomes bits, one a position, and those are read in order.
#pragma once

#include "optimized/indexer_logits/rows.cuh"
#include "optimized/indexer_top_k/run_lists.h"
#include "optimized/top_k/row.cuh"

namespace dsa {

inline constexpr int choosing_threads = 512;
inline constexpr int choosing_digit_bits = 11;
inline constexpr int positions_at_once = 1 << 16;
inline constexpr int words_at_once = positions_at_once / 32;

struct ChoosingMemory {
    SelectShared<choosing_digit_bits> select;
    std::uint32_t above[words_at_once], equal[words_at_once];  // bits of positions
    std::uint32_t count;
    std::int32_t first_nan;
};

// What a query's runs have left.
struct LeftByRuns {
    const RunLists& lists;
    std::int64_t first;  // the query's among all that runs leave
    std::int64_t step;   // to the next run
    int runs;

    template <class See>
    __device__ void each(See see) const {
        for (int run = 0; run < runs; ++run) {
            const std::int64_t at = first + run * step;
            const Scored* from = lists.kept + at * lists.room;
            for (std::uint32_t i = threadIdx.x; i < lists.counts[at]; i += choosing_threads) see(from[i]);
        }
    }
};

// The key of the k-th best; where there are no more than k, a key below all.
__device__ inline Search kth_of_runs(ChoosingMemory& memory, const LeftByRuns& left, std::uint32_t k) {
    if (memory.count <= k) return {.prefix = 0, .bits = key_bits, .wanted = 0};
    Search search{.wanted = k};
    while (search.bits < key_bits) {
        const int width = width_of_next_digit(search, choosing_digit_bits);
        clear_bins(memory.select);
        left.each([&](const Scored& mine) { count(memory.select, search, width, key_of(mine.score)); });
        __syncthreads();
        search = narrowed(memory.select, search, width);
    }
    return search;
}

// Positions above the k-th best, and the first `wanted` of those equal to it, in order.
__device__ inline std::uint32_t write_in_order(ChoosingMemory& memory, const LeftByRuns& left, const Search& kth,
                                               const Range& range, std::int32_t* indices) {
    constexpr int own = words_at_once / choosing_threads;
    std::uint32_t slot = 0, equal = 0;
    for (std::int64_t first = range.begin; first < range.end; first += positions_at_once) {
        for (int i = static_cast<int>(threadIdx.x); i < words_at_once; i += choosing_threads)
            memory.above[i] = memory.equal[i] = 0;
        __syncthreads();
        left.each([&](const Scored& mine) {
            const auto at = static_cast<std::uint32_t>(mine.position - first);
            const std::uint32_t key = key_of(mine.score);
            if (at >= positions_at_once || key < kth.prefix) return;
            atomicOr(key > kth.prefix ? &memory.above[at / 32] : &memory.equal[at / 32], 1U << at % 32);
        });
        __syncthreads();
        std::uint32_t above[own], equals[own];
        std::uint32_t mine_above = 0, mine_equal = 0;
#pragma unroll
        for (int i = 0; i < own; ++i) {
            above[i] = memory.above[threadIdx.x * own + static_cast<std::uint32_t>(i)];
            equals[i] = memory.equal[threadIdx.x * own + static_cast<std::uint32_t>(i)];
            mine_above += static_cast<std::uint32_t>(__popc(above[i]));
            mine_equal += static_cast<std::uint32_t>(__popc(equals[i]));
        }
        const SumBefore sum_above = sum_before(mine_above, memory.select.sums);
        const SumBefore sum_equal = sum_before(mine_equal, memory.select.sums);
        std::uint32_t equal_before = equal + sum_equal.before;
        std::uint32_t at = slot + sum_above.before + min(equal_before, kth.wanted) - min(equal, kth.wanted);
#pragma unroll
        for (int i = 0; i < own; ++i)
            for (std::uint32_t bits = above[i] | equals[i]; bits != 0; bits &= bits - 1) {
                const int bit = __ffs(static_cast<int>(bits)) - 1;
                if ((equals[i] >> bit & 1) != 0 && equal_before++ >= kth.wanted) continue;
                indices[at++] =
                    static_cast<std::int32_t>(first) + (static_cast<int>(threadIdx.x) * own + i) * 32 + bit;
            }
        slot += sum_above.all + min(equal + sum_equal.all, kth.wanted) - min(equal, kth.wanted);
        equal += sum_equal.all;
    }
    return slot;
}

__global__ void __launch_bounds__(choosing_threads)
    best_of_runs(__grid_constant__ const IndexerTopK call, __grid_constant__ const RunLists lists,
                 std::int64_t queries) {
    ChoosingMemory& memory = shared<ChoosingMemory>();
    const std::int64_t t = blockIdx.x;
    std::int32_t* indices = call.indices + t * call.k;  // [k]
    const Range range{max(call.scoring.start[t], 0), min(std::int64_t{call.scoring.end[t]}, call.scoring.S)};
    if (range.begin >= range.end) return leave_unused(indices, 0, call.k);
    const std::int64_t group = t / queries;
    const std::int32_t first_block = lists.first_block[group];
    const LeftByRuns left{lists, (group + first_block) * queries + t % queries, queries,
                          lists.last_block[group] - first_block + 1};
    if (threadIdx.x == 0) memory.count = 0, memory.first_nan = no_position;
    __syncthreads();
    for (int run = static_cast<int>(threadIdx.x); run < left.runs; run += choosing_threads) {
        atomicAdd(&memory.count, lists.counts[left.first + run * left.step]);
        atomicMin(&memory.first_nan, lists.first_nan[left.first + run * left.step]);
    }
    __syncthreads();
    if (memory.first_nan != no_position && !call.nan_as_minus_infinity)
        return tell_nan(indices, call.k, memory.first_nan);
    const Search kth = kth_of_runs(memory, left, lists.k);
    leave_unused(indices, write_in_order(memory, left, kth, range, indices), call.k);
}

}  // namespace dsa
