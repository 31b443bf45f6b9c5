// The last kernel of level 3, for queries that best_of_runs had no room for, or whose guess was spoilt. A block finds
// the k best of what the runs have left, however much that is, by digits; what is chosen becomes bits, one a
// position, and those are read in order.
#pragma once

#include "optimized/indexer_top_k/best_of_runs.cuh"

namespace dsa {

inline constexpr int choosing_digit_bits = 11;
inline constexpr std::uint32_t room_on_chip = 3072;
inline constexpr int positions_at_once = 1 << 17;
inline constexpr int words_at_once = positions_at_once / 32;

struct ChoosingMemory {
    Candidate on_chip[room_on_chip];
    SelectShared<choosing_digit_bits> select;
    alignas(16) std::uint32_t above[words_at_once], equal[words_at_once];  // bits of positions
    std::uint32_t count;                                                   // of candidates
    std::int32_t first_nan;
};

struct OnChip {
    const ChoosingMemory& memory;

    template <class See>
    __device__ void each(See see) const {
        for (std::uint32_t i = threadIdx.x; i < memory.count; i += choosing_threads) see(memory.on_chip[i]);
    }
};

// Those that may be among the best, to shared memory. All threads come.
__device__ inline void bring_on_chip(ChoosingMemory& memory, const LeftByRuns& left, const Search& search) {
    __syncthreads();
    if (threadIdx.x == 0) memory.count = 0;
    __syncthreads();
    left.each([&](const Candidate& mine) {
        if (search.may_be_chosen(mine.key)) memory.on_chip[atomicAdd(&memory.count, 1U)] = mine;
    });
    __syncthreads();
}

template <class List>
__device__ Search next_digit(ChoosingMemory& memory, const List& list, const Search& search) {
    const int width = width_of_next_digit(search, choosing_digit_bits);
    clear_bins(memory.select);
    list.each([&](const Candidate& mine) { count(memory.select, search, width, mine.key); });
    __syncthreads();
    return narrowed(memory.select, search, width);
}

// No further digit tells anything.
__device__ inline bool is_over(const Search& search) {
    return search.bits == key_bits || (search.bits > 0 && search.inside == search.wanted);
}

enum class Choice { no, yes, first_ones };  // of the last, the first `wanted`

// The chosen ones' positions in order; how many, k at most.
template <class List, class Choose>
__device__ std::uint32_t write_in_order(ChoosingMemory& memory, const List& list, std::uint32_t wanted, Choose choice,
                                        const Range& range, std::int32_t* indices) {
    constexpr int own = words_at_once / choosing_threads;
    const auto words_of = [](const std::uint32_t(&all)[words_at_once]) {
        return reinterpret_cast<const FourWords*>(all + threadIdx.x * own);
    };
    std::uint32_t slot = 0, equal = 0;
    for (std::int64_t first = range.begin; first < range.end; first += positions_at_once) {
        for (int i = static_cast<int>(threadIdx.x); i < words_at_once; i += choosing_threads)
            memory.above[i] = memory.equal[i] = 0;
        __syncthreads();
        list.each([&](const Candidate& mine) {
            const auto at = static_cast<std::uint32_t>(mine.position - first);
            const Choice is_chosen = choice(mine.key);
            std::uint32_t* bits = is_chosen == Choice::yes ? memory.above : memory.equal;
            if (at < positions_at_once && is_chosen != Choice::no) atomicOr(&bits[at / 32], 1U << at % 32);
        });
        __syncthreads();
        std::uint32_t above[own], equals[own];
        std::uint32_t mine_above = 0, mine_equal = 0;
#pragma unroll
        for (int i = 0; i < own; ++i) {
            above[i] = words_of(memory.above)[i / 4].v[i % 4];
            equals[i] = words_of(memory.equal)[i / 4].v[i % 4];
            mine_above += static_cast<std::uint32_t>(__popc(above[i]));
            mine_equal += static_cast<std::uint32_t>(__popc(equals[i]));
        }
        const SumBefore sum_above = sum_before(mine_above, memory.select.sums);
        const SumBefore sum_equal = sum_before(mine_equal, memory.select.sums);
        std::uint32_t equal_before = equal + sum_equal.before;
        std::uint32_t at = slot + sum_above.before + min(equal_before, wanted) - min(equal, wanted);
#pragma unroll
        for (int i = 0; i < own; ++i)
            for (std::uint32_t bits = above[i] | equals[i]; bits != 0; bits &= bits - 1) {
                const int bit = __ffs(static_cast<int>(bits)) - 1;
                if ((equals[i] >> bit & 1) != 0 && equal_before++ >= wanted) continue;
                indices[at++] =
                    static_cast<std::int32_t>(first) + (static_cast<int>(threadIdx.x) * own + i) * 32 + bit;
            }
        slot += sum_above.all + min(equal + sum_equal.all, wanted) - min(equal, wanted);
        equal += sum_equal.all;
    }
    return slot;
}

template <class List>
__device__ std::uint32_t choose(ChoosingMemory& memory, const List& list, Search search, const Range& range,
                                std::int32_t* indices) {
    while (!is_over(search)) search = next_digit(memory, list, search);
    const auto choice = [&](std::uint32_t key) {
        return !search.may_be_chosen(key) ? Choice::no : search.covers(key) ? Choice::first_ones : Choice::yes;
    };
    return write_in_order(memory, list, search.wanted, choice, range, indices);
}

// One query's. All threads come.
__device__ inline void choose_of_runs(ChoosingMemory& memory, const IndexerTopK& call, const RunLists& lists,
                                      std::uint32_t t, std::uint32_t queries) {
    std::int32_t* indices = call.indices + t * call.k;  // [k]
    const LeftByRuns left = left_by_runs(lists, memory.first_nan, t, queries);
    __syncthreads();
    if (threadIdx.x == 0) {
        memory.count = 0;
        memory.first_nan = no_position;
    }
    __syncthreads();
    left.count(memory.count);
    __syncthreads();
    const std::uint32_t count = memory.count;
    Search search{.wanted = lists.k, .inside = count};
    if (count <= lists.k) search.bits = key_bits;  // every key is above 0, the prefix
    const auto may_be_chosen = [&] { return lists.k - search.wanted + search.inside; };
    while (!is_over(search) && may_be_chosen() > room_on_chip) search = next_digit(memory, left, search);
    const bool on_chip = may_be_chosen() <= room_on_chip;
    if (on_chip)
        bring_on_chip(memory, left, search);
    else
        left.each([](const Candidate&) {});
    __syncthreads();
    // All candidates have been seen.
    if (memory.first_nan != no_position && !call.nan_as_minus_infinity)
        return tell_nan(indices, call.k, memory.first_nan);
    const Range range = seen_by(call, t);
    const std::uint32_t written = on_chip ? choose(memory, OnChip{memory}, search, range, indices)
                                          : choose(memory, left, search, range, indices);
    leave_unused(indices, written, call.k);
}

// Blocks share the queries; most often there is nothing to do, and a block knows that by one load.
__global__ void __launch_bounds__(choosing_threads, 2)
    best_of_rest(__grid_constant__ const IndexerTopK call, __grid_constant__ const RunLists lists,
                 std::uint32_t queries) {
    ChoosingMemory& memory = shared<ChoosingMemory>();
    const auto T = static_cast<std::uint32_t>(call.scoring.T), step = gridDim.x;
    for (std::uint32_t first = blockIdx.x; first < T; first += step * warp_size) {
        const std::uint32_t mine = first + static_cast<std::uint32_t>(lane_id()) * step;
        std::uint32_t open = __ballot_sync(all_lanes, mine < T && lists.open[mine] != 0);
        for (; open != 0; open &= open - 1)
            choose_of_runs(memory, call, lists,
                           first + static_cast<std::uint32_t>(__ffs(static_cast<int>(open)) - 1) * step, queries);
    }
}

}  // namespace dsa
