// What the ring's runs have left of a query's candidates: columns in the workspace, in no order.
#pragma once

#include "optimized/indexer_logits/rows.cuh"
#include "optimized/indexer_top_k/run_lists.h"
#include "optimized/top_k/in_registers.cuh"

namespace dsa {

inline constexpr int choosing_threads = holding_threads;

// What a query's runs have left. see(candidate), by all threads.
struct LeftByRuns {
    const RunLists& lists;
    std::int32_t& first_nan;
    std::int64_t first;  // the query's among those of all runs
    std::int64_t step;   // to the next run
    int runs;

    // How many there are, to a number of the block's; and the NaN that the runs have dropped.
    __device__ void count(std::uint32_t& all) const {
        for (int i = static_cast<int>(threadIdx.x); i < runs * columns_of_a_query; i += choosing_threads) {
            const std::int64_t query = first + i / columns_of_a_query * step;
            const int column = i % columns_of_a_query;
            atomicAdd(&all, lists.counts[query * columns_of_a_query + column]);
            if (column == 0) atomicMin(&first_nan, lists.first_nan[query]);
        }
    }
    template <class See>
    __device__ void each(See see) const {
        const int column = static_cast<int>(threadIdx.x) % columns_of_a_query;
        for (int run = 0; run < runs; ++run) {
            const std::int64_t query = first + run * step;
            const Scored* from = lists.columns + query * lists.rows * columns_of_a_query + column;
            const auto count = static_cast<int>(lists.counts[query * columns_of_a_query + column]);
#pragma unroll 4
            for (int i = static_cast<int>(threadIdx.x) / columns_of_a_query; i < count;
                 i += choosing_threads / columns_of_a_query) {
                const Scored mine = from[i * columns_of_a_query];
                if (is_nan(mine.score)) atomicMin(&first_nan, mine.position);
                see({key_of(mine.score), mine.position});
            }
        }
    }
};

// Query t's, of groups of so many.
__device__ inline LeftByRuns left_by_runs(const RunLists& lists, std::int32_t& first_nan, std::uint32_t t,
                                          std::uint32_t queries) {
    const std::uint32_t group = t / queries;
    const std::int32_t first_block = lists.first_block[group];
    return {lists, first_nan, std::int64_t{first_block} * queries + t, queries,
            lists.last_block[group] - first_block + 1};
}

__device__ inline Range seen_by(const IndexerTopK& call, std::int64_t t) {
    return {max(call.scoring.start[t], 0), min(std::int64_t{call.scoring.end[t]}, call.scoring.S)};
}

}  // namespace dsa
