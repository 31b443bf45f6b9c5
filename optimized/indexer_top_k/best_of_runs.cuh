// What follows the ring in level 3: one block a query holds what its group's runs have left as keys in registers, and
// finds the k best. They lie in no order, so what is chosen becomes bits, one a position; a chosen one's slot is how
// many bits stand before its own. Queries for which there is no room are left open, to best_of_rest.
#pragma once

#include "optimized/indexer_top_k/left_by_runs.cuh"

namespace dsa {

#if defined(DSA_SIMULATOR)
inline constexpr int held_rows = 2, held_together = 2;  // small cases shall have more than that too
inline constexpr int room_for_further = 64;
#else
inline constexpr int held_rows = 16, held_together = 4;  // of candidates, a thread
inline constexpr int room_for_further = 1024;
#endif
inline constexpr int bits_of_positions = 1 << 17;
inline constexpr int words_of_bits = bits_of_positions / 32;
inline constexpr int most_chosen = 6144;

struct alignas(16) FourWords {
    std::uint32_t v[4];
};

// For three blocks a multiprocessor.
struct HoldingMemory {
    FourWords chosen[words_of_bits / 4];  // bits of positions
    union {
        std::int32_t held[held_rows][choosing_threads];  // positions of the keys in registers
        struct {
            FourWords before[words_of_bits / 4];  // how many are chosen before each word
            std::int32_t positions[most_chosen];  // of the chosen ones, in order
        } written;
    };
    Candidate further[room_for_further];  // candidates for which a thread has no register
    std::uint32_t count_of_further;
    Histogram<1> histogram;
    Place place;
    Few few;
    std::uint32_t of_warps[holding_warps];
    std::uint32_t smallest, largest;
    std::int32_t first_nan;
};

// Where up to two runs have left a thread's candidates: a warp's lanes are the columns, and the block's warps share
// the rows of each, those of the second run after those of the first.
struct Rows {
    static constexpr int warps = choosing_threads / columns_of_a_query;
    const Scored *from_0, *from_1;  // where slot 0 is, if it is of the first run, or of the second
    int rows_0, rows;               // slot i is of the first run, or is there at all, if i * warps is below

    __device__ explicit Rows(const LeftByRuns& left) {
        const RunLists& lists = left.lists;
        const std::int64_t query_0 = left.first, query_1 = left.first + (left.runs - 1) * left.step;
        rows_0 = static_cast<int>(lists.counts[query_0 * columns_of_a_query + lane_id()]);
        const int rows_1 =
            left.runs == 1 ? 0 : static_cast<int>(lists.counts[query_1 * columns_of_a_query + lane_id()]);
        from_0 = lists.columns + query_0 * lists.rows * columns_of_a_query + threadIdx.x;
        from_1 =
            lists.columns + query_1 * lists.rows * columns_of_a_query + threadIdx.x - rows_0 * columns_of_a_query;
        rows = rows_0 + rows_1 - warp_id();
        rows_0 -= warp_id();
    }
    __device__ bool exists(int i) const { return i * warps < rows; }
    __device__ const Scored& candidate(int i) const {
        return (i * warps < rows_0 ? from_0 : from_1)[i * choosing_threads];
    }
};

// All of a query's candidates: keys in registers, and in shared memory what a long column has beyond them.
struct HeldCandidates {
    static constexpr int together = held_together;
    HoldingMemory& memory;
    int slots;                      // that some thread has
    std::uint32_t count;            // of the block's
    std::uint32_t keys[held_rows];  // 0, below all keys, where there is none

    __device__ explicit HeldCandidates(HoldingMemory& of_block) : memory(of_block) {}

    // see(first) of some slots in registers together, if a thread may have one of them.
    template <class See>
    __device__ void each_stretch(See see) const {
#pragma unroll
        for (int first = 0; first < held_rows; first += together)
            if (first < slots) see(first);
    }
    template <class See>
    __device__ void each_slot(See see) const {
        each_stretch([&](int first) {
#pragma unroll
            for (int i = first; i < first + together; ++i) see(i);
        });
    }
    template <class See>
    __device__ void each_further(See see) const {
#pragma unroll 1
        for (std::uint32_t i = threadIdx.x; i < memory.count_of_further; i += choosing_threads)
            see(memory.further[i]);
    }
    template <class See>
    __device__ void each_key(See see) const {
        each_slot([&](int i) { see(keys[i]); });
        each_further([&](const Candidate& mine) { see(mine.key); });
    }

    __device__ void load(const Rows& rows) {
        const int own = rows.rows + warp_id();
        slots = (redux_max(own) + Rows::warps - 1) / Rows::warps;
        count = redux_add(static_cast<std::uint32_t>(own));
        std::uint32_t smallest = ~0U, largest = 0;
        bool has_nan = false;
        const auto key_seen = [&](float score, bool exists) {
            has_nan = has_nan || is_nan(score);
            const std::uint32_t key = exists ? key_of(score) : 0;
            smallest = min(smallest, key - 1);
            largest = max(largest, key);
            return key;
        };
        each_stretch([&](int first) {
            Scored some[together];
#pragma unroll
            for (int i = 0; i < together; ++i)
                some[i] = rows.exists(first + i) ? rows.candidate(first + i) : Scored{0.0F, 0};
#pragma unroll
            for (int i = 0; i < together; ++i) {
                memory.held[first + i][threadIdx.x] = some[i].position;
                keys[first + i] = key_seen(some[i].score, rows.exists(first + i));
            }
        });
#pragma unroll 1
        for (int i = held_rows; rows.exists(i); ++i) {
            const Scored mine = rows.candidate(i);
            const std::uint32_t key = key_seen(mine.score, true), slot = atomicAdd(&memory.count_of_further, 1U);
            if (slot < room_for_further) memory.further[slot] = {key, mine.position};
        }
        if (has_nan) atomicMin(&memory.first_nan, 0);  // best_of_rest finds the first
        smallest = redux_min(smallest);
        largest = redux_max(largest);
        if (lane_id() == 0) {
            atomicMin(&memory.smallest, smallest + 1);
            atomicMax(&memory.largest, largest);
        }
    }

    // Of the keys that equal the place's, the first ones in the row stay, as many as are wanted. All threads come.
    __device__ void keep_first(const Place& place) {
        __syncthreads();  // everybody has read what was few before
        if (threadIdx.x == 0) memory.few.count = 0;
        __syncthreads();
        const auto append = [&](std::int32_t position) {
            memory.few.keys[atomicAdd(&memory.few.count, 1U)] = ~static_cast<std::uint32_t>(position);
        };
        each_slot([&](int i) {
            if (keys[i] == place.low) append(memory.held[i][threadIdx.x]);
        });
        each_further([&](const Candidate& mine) {
            if (mine.key == place.low) append(mine.position);
        });
        __syncthreads();
        const auto last = static_cast<std::int32_t>(~told_apart(memory.few, place).low);
        each_slot([&](int i) {
            if (keys[i] == place.low && memory.held[i][threadIdx.x] > last) keys[i] = 0;
        });
        each_further([&](Candidate& mine) {
            if (mine.key == place.low && mine.position > last) mine.key = 0;
        });
    }
};

// The positions of keys from `low` on, in order.
__device__ inline void write_from(HoldingMemory& memory, const HeldCandidates& held, std::uint32_t low,
                                  const Range& range, std::int32_t* indices) {
    const auto begin = static_cast<std::int32_t>(range.begin);
    auto* chosen = reinterpret_cast<std::uint32_t*>(memory.chosen);
    const auto mark = [&](std::uint32_t at) { atomicOr(&chosen[at / 32], 1U << at % 32); };
    std::uint32_t at[held_rows];  // from the range's begin
    held.each_slot([&](int i) {
        at[i] = ~0U;
        if (held.keys[i] < low) return;
        at[i] = static_cast<std::uint32_t>(memory.held[i][threadIdx.x] - begin);
        mark(at[i]);
    });
    held.each_further([&](const Candidate& mine) {
        if (mine.key >= low) mark(static_cast<std::uint32_t>(mine.position - begin));
    });
    __syncthreads();
    constexpr int own = words_of_bits / 4 / choosing_threads;
    std::uint32_t mine = 0;
    FourWords before[own];
#pragma unroll
    for (int i = 0; i < own; ++i) {
        const FourWords bits = memory.chosen[static_cast<int>(threadIdx.x) * own + i];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            before[i].v[j] = mine;
            mine += static_cast<std::uint32_t>(__popc(bits.v[j]));
        }
    }
    const std::uint32_t before_lane = sum_of_lanes_before(mine);
    if (lane_id() == warp_size - 1) memory.of_warps[warp_id()] = before_lane + mine;
    __syncthreads();
    const std::uint32_t of_warp = lane_id() < holding_warps ? memory.of_warps[lane_id()] : 0;
    const std::uint32_t all = redux_add(of_warp);
    const std::uint32_t first = redux_add(lane_id() < warp_id() ? of_warp : 0U) + before_lane;
#pragma unroll
    for (int i = 0; i < own; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) before[i].v[j] += first;
        memory.written.before[static_cast<int>(threadIdx.x) * own + i] = before[i];
    }
    __syncthreads();
    const auto* before_word = reinterpret_cast<const std::uint32_t*>(memory.written.before);
    const auto write = [&](std::uint32_t position) {
        const std::uint32_t lower = chosen[position / 32] & ((1U << position % 32) - 1);
        memory.written.positions[before_word[position / 32] + static_cast<std::uint32_t>(__popc(lower))] =
            begin + static_cast<std::int32_t>(position);
    };
    held.each_slot([&](int i) {
        if (at[i] != ~0U) write(at[i]);
    });
    held.each_further([&](const Candidate& further) {
        if (further.key >= low) write(static_cast<std::uint32_t>(further.position - begin));
    });
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < all; i += choosing_threads) indices[i] = memory.written.positions[i];
}

__global__ void __launch_bounds__(choosing_threads, 3)
    best_of_runs(__grid_constant__ const IndexerTopK call, __grid_constant__ const RunLists lists,
                 std::uint32_t queries) {
    HoldingMemory& memory = shared<HoldingMemory>();
    const std::uint32_t t = blockIdx.x;
    std::int32_t* indices = call.indices + t * call.k;  // [k]
    const LeftByRuns left = left_by_runs(lists, memory.first_nan, t, queries);
    const Range range = seen_by(call, t);
    const auto leave = [&](bool is_open) {
        if (threadIdx.x == 0) lists.open[t] = is_open ? 1 : 0;
    };
    if (range.begin >= range.end) {
        leave(false);
        return leave_unused(indices, 0, call.k);
    }
#pragma unroll
    for (int i = 0; i < words_of_bits / 4; i += choosing_threads) memory.chosen[i + threadIdx.x] = {};
    if (threadIdx.x == 0) {
        memory.largest = memory.count_of_further = 0;
        memory.smallest = ~0U;
        memory.first_nan = no_position;
    }
    clear_histogram(memory);
    const Rows rows(left);
    const bool dropped_nan =
        min(lists.first_nan[left.first], lists.first_nan[left.first + (left.runs - 1) * left.step]) != no_position;
    HeldCandidates held(memory);
    __syncthreads();
    const bool can_fit = left.runs <= 2 && range.end - range.begin <= bits_of_positions && lists.k <= most_chosen;
    // A NaN exceeds every guess: where it ranks last, it may stand in the place of a better one.
    const auto tell_whether_spoilt = [&](bool has_nan, std::uint32_t count) {
        const bool is_spoilt = lists.guesses != nullptr && ((has_nan && call.nan_as_minus_infinity) ||
                                                            count < min(call.k, range.end - range.begin));
        if (is_spoilt && threadIdx.x == 0) atomicMax(&lists.again[t / queries], 1);
        return is_spoilt;
    };
    if (can_fit) held.load(rows);
    __syncthreads();
    if (!can_fit || memory.count_of_further > room_for_further) {
        if (threadIdx.x == 0) memory.few.count = 0;
        __syncthreads();
        left.count(memory.few.count);
        if (lists.guesses != nullptr && call.nan_as_minus_infinity) left.each([](const Candidate&) {});
        __syncthreads();
        tell_whether_spoilt(dropped_nan || memory.first_nan != no_position, memory.few.count);
        return leave(true);
    }
    const bool has_nan = dropped_nan || memory.first_nan != no_position;
    if (tell_whether_spoilt(has_nan, held.count) || has_nan) return leave(true);
    Place place{.low = 1, .high = ~0U, .wanted = lists.k, .inside = lists.k, .above_before = 0, .inside_before = 0};
    if (held.count > lists.k) {
        place = {.low = memory.smallest,
                 .high = memory.largest,
                 .wanted = lists.k,
                 .inside = held.count,
                 .above_before = 0,
                 .inside_before = 0};
        place = narrowed_to(memory, place, digits + 1, true, [&](auto see) { held.each_key(see); });
    }
    if (place.inside != place.wanted) {
        if (place.inside > Few::room) return leave(true);
        held.keep_first(place);
    }
    leave(false);
    write_from(memory, held, place.low, range, indices);
    leave_unused(indices, min(std::int64_t{held.count}, call.k), call.k);
}

}  // namespace dsa
