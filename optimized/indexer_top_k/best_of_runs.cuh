// The last kernel of level 3: one block a query finds the k best among what its group's runs have left. They lie in
// no order, so what is chosen becomes bits, one a position, and those are read in order.
#pragma once

#include "optimized/indexer_logits/rows.cuh"
#include "optimized/indexer_top_k/run_lists.h"
#include "optimized/top_k/in_registers.cuh"

namespace dsa {

inline constexpr int choosing_threads = holding_threads;
inline constexpr int held_rows = 16;  // of candidates, a thread
inline constexpr int choosing_digit_bits = 11;
inline constexpr std::uint32_t room_on_chip = 3072;
inline constexpr std::uint32_t room_for_positions = 2 * room_on_chip;  // in the same place
inline constexpr int positions_at_once = 1 << 17;
inline constexpr int words_at_once = positions_at_once / 32;

struct alignas(16) FourWords {
    std::uint32_t v[4];
};

struct ChoosingMemory {
    Candidate on_chip[room_on_chip];
    SelectShared<choosing_digit_bits> select;
    alignas(16) std::uint32_t above[words_at_once], equal[words_at_once];  // bits of positions
    Histogram<1> histogram;
    Place place;
    std::uint32_t count;  // of candidates
    std::uint32_t smallest, largest;
    std::int32_t first_nan;
};

// What a query's runs have left. see(candidate), by all threads.
struct LeftByRuns {
    static constexpr bool leaves_room = true;
    const RunLists& lists;
    ChoosingMemory& memory;
    std::int64_t first;  // the query's among those of all runs
    std::int64_t step;   // to the next run
    int runs;

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
                if (is_nan(mine.score)) atomicMin(&memory.first_nan, mine.position);
                see({key_of(mine.score), mine.position});
            }
        }
    }
};

// What up to two runs have left, in registers: as long as no column has many rows, that is what there is.
struct HeldCandidates {
    static constexpr bool leaves_room = true;
    std::uint32_t keys[held_rows];  // 0, below all keys, where there is none
    std::int32_t positions[held_rows];
    std::uint32_t count;  // of the block

    // Whether they fit. A warp's lanes are the columns, and the block's warps share the rows.
    __device__ bool load(const LeftByRuns& left, ChoosingMemory& memory) {
        constexpr int warps = choosing_threads / columns_of_a_query;
        if (left.runs > 2) return false;
        const RunLists& lists = left.lists;
        const std::int64_t query_0 = left.first, query_1 = left.first + (left.runs - 1) * left.step;
        const auto rows_0 = static_cast<int>(lists.counts[query_0 * columns_of_a_query + lane_id()]);
        const int rows_1 =
            left.runs == 1 ? 0 : static_cast<int>(lists.counts[query_1 * columns_of_a_query + lane_id()]);
        const int most_0 = redux_max(rows_0), most = most_0 + redux_max(rows_1);
        if (most > held_rows * warps) return false;
        count = redux_add(static_cast<std::uint32_t>(rows_0 + rows_1));
        const Scored* from_0 = lists.columns + query_0 * lists.rows * columns_of_a_query + lane_id();
        const Scored* from_1 = lists.columns + query_1 * lists.rows * columns_of_a_query + lane_id();
        Scored found[held_rows];
#pragma unroll
        for (int i = 0; i < held_rows; ++i) {
            const int nth = i * warps + warp_id();
            const bool of_first = nth < most_0;
            const int row = of_first ? nth : nth - most_0;
            found[i] = {0.0F, no_position};
            if (row < (of_first ? rows_0 : rows_1)) found[i] = (of_first ? from_0 : from_1)[row * columns_of_a_query];
        }
        std::uint32_t smallest = ~0U, largest = 0;
#pragma unroll
        for (int i = 0; i < held_rows; ++i) {
            const bool is_there = found[i].position != no_position;
            if (is_nan(found[i].score)) atomicMin(&memory.first_nan, found[i].position);
            keys[i] = is_there ? key_of(found[i].score) : 0;
            positions[i] = found[i].position;
            if (is_there) smallest = min(smallest, keys[i]);
            largest = max(largest, keys[i]);
        }
        smallest = redux_min(smallest);
        largest = redux_max(largest);
        if (lane_id() == 0) {
            atomicMin(&memory.smallest, smallest);
            atomicMax(&memory.largest, largest);
            atomicMin(&memory.first_nan, min(lists.first_nan[query_0], lists.first_nan[query_1]));
        }
        return true;
    }
    template <class See>
    __device__ void each(See see) const {
#pragma unroll
        for (int i = 0; i < held_rows; ++i) see({keys[i], positions[i]});
    }
};

struct OnChip {
    static constexpr bool leaves_room = false;  // in ChoosingMemory::on_chip
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
__device__ std::uint32_t write_in_order(ChoosingMemory& memory, const List& list, std::uint32_t k,
                                        std::uint32_t wanted, Choose choice, const Range& range,
                                        std::int32_t* indices) {
    // Threads write here and there; where there is room, whole lines leave.
    const bool is_gathered = List::leaves_room && k <= room_for_positions;
    std::int32_t* to = is_gathered ? reinterpret_cast<std::int32_t*>(memory.on_chip) : indices;
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
                to[at++] = static_cast<std::int32_t>(first) + (static_cast<int>(threadIdx.x) * own + i) * 32 + bit;
            }
        slot += sum_above.all + min(equal + sum_equal.all, wanted) - min(equal, wanted);
        equal += sum_equal.all;
    }
    if (is_gathered) {
        __syncthreads();
        for (std::uint32_t i = threadIdx.x; i < slot; i += choosing_threads) indices[i] = to[i];
    }
    return slot;
}

template <class List>
__device__ std::uint32_t choose(ChoosingMemory& memory, const List& list, std::uint32_t k, Search search,
                                const Range& range, std::int32_t* indices) {
    while (!is_over(search)) search = next_digit(memory, list, search);
    const auto choice = [&](std::uint32_t key) {
        return !search.may_be_chosen(key) ? Choice::no : search.covers(key) ? Choice::first_ones : Choice::yes;
    };
    return write_in_order(memory, list, k, search.wanted, choice, range, indices);
}

// `again`: only what a guess has spoilt the first time.
__global__ void __launch_bounds__(choosing_threads, 2)
    best_of_runs(__grid_constant__ const IndexerTopK call, __grid_constant__ const RunLists lists,
                 std::int64_t queries, bool again) {
    ChoosingMemory& memory = shared<ChoosingMemory>();
    const std::int64_t t = blockIdx.x;
    const std::int64_t group = t / queries;
    if (again && lists.again[group] == 0) return;
    std::int32_t* indices = call.indices + t * call.k;  // [k]
    const Range range{max(call.scoring.start[t], 0), min(std::int64_t{call.scoring.end[t]}, call.scoring.S)};
    if (range.begin >= range.end) return leave_unused(indices, 0, call.k);
    const std::int32_t first_block = lists.first_block[group];
    const LeftByRuns left{lists, memory, (group + first_block) * queries + t % queries, queries,
                          lists.last_block[group] - first_block + 1};
    if (threadIdx.x == 0) {
        memory.count = memory.largest = 0;
        memory.smallest = ~0U;
        memory.first_nan = no_position;
    }
    __syncthreads();
    // A NaN exceeds every guess: where it ranks last, it may stand in the place of a better one.
    const auto is_spoilt = [&](std::uint32_t count) {
        const bool spoilt = lists.guesses != nullptr &&
                            (memory.first_nan != no_position || count < min(call.k, range.end - range.begin));
        if (spoilt && threadIdx.x == 0) atomicMax(&lists.again[group], 1);
        return spoilt;
    };
    HeldCandidates held;
    if (held.load(left, memory)) {
        __syncthreads();
        if (memory.first_nan != no_position && !call.nan_as_minus_infinity)
            return tell_nan(indices, call.k, memory.first_nan);
        if (is_spoilt(held.count)) return;
        // Where there are no more than k, all are above it; but not 0, where there is none.
        Place place{.low = 1, .high = 0, .wanted = 0, .inside = 0, .above_before = 0, .inside_before = 0};
        if (held.count > lists.k) {
            place = {.low = memory.smallest,
                     .high = memory.largest,
                     .wanted = lists.k,
                     .inside = held.count,
                     .above_before = 0,
                     .inside_before = 0};
            place = narrowed_to(memory, place, digits + 1,
                                [&](auto see) { held.each([&](const Candidate& mine) { see(mine.key); }); });
        }
        const auto choice = [&](std::uint32_t key) {
            if (key < place.low) return Choice::no;
            return key > place.high || place.inside == place.wanted ? Choice::yes : Choice::first_ones;
        };
        return leave_unused(indices, write_in_order(memory, held, lists.k, place.wanted, choice, range, indices),
                            call.k);
    }
    for (int i = static_cast<int>(threadIdx.x); i < left.runs * columns_of_a_query; i += choosing_threads) {
        const std::int64_t query = left.first + i / columns_of_a_query * left.step;
        const int column = i % columns_of_a_query;
        atomicAdd(&memory.count, lists.counts[query * columns_of_a_query + column]);
        if (column == 0) atomicMin(&memory.first_nan, lists.first_nan[query]);
    }
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
    if (is_spoilt(count)) return;
    const std::uint32_t written = on_chip ? choose(memory, OnChip{memory}, lists.k, search, range, indices)
                                          : choose(memory, left, lists.k, search, range, indices);
    leave_unused(indices, written, call.k);
}

}  // namespace dsa
