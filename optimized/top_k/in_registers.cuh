// The k best of a row that its block, or the blocks of a cluster, hold in registers: read once, then counted by
// digits of 11, 11 and 10 bits. What leaves a block are counts: of 2048 bins, and of 64 sums of 32 neighbours that
// say in which bins to look.
#pragma once

#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/warp.h"
#include "optimized/top_k/row.cuh"

namespace dsa {

inline constexpr int holding_threads = 512;
inline constexpr int holding_warps = holding_threads / warp_size;
inline constexpr int scores_of_a_load = 4;  // 16 bytes
inline constexpr int most_pieces = 8;       // of 4 scores a thread: half of its 64 registers

// How many scores a block of this many pieces a thread holds.
__host__ __device__ constexpr std::int64_t scores_held(int pieces) {
    return holding_threads * scores_of_a_load * std::int64_t{pieces};
}

// Who holds a row: one block, or those of a cluster, each a stretch of it in the order of their ranks.
struct Alone {
    static constexpr int most = 1;
    __device__ int rank() const { return 0; }
    __device__ int size() const { return 1; }
    __device__ void sync() const { __syncthreads(); }
    __device__ void say() const {}
    __device__ void wait_for_all() const {}
    template <class T>
    __device__ T& of(T& mine, int) const {
        return mine;
    }
};
struct Together {
    static constexpr int most = 8;
    __device__ int rank() const { return cluster_rank(); }
    __device__ int size() const { return cluster_size(); }
    __device__ void sync() const { cluster_sync(); }
    // Nobody may reach into a block that has not begun, or has ended: at both ends a block says that it is there, or
    // that it has reached into others for the last time, and waits later until all have said so.
    __device__ void say() const { cluster_arrive(); }
    __device__ void wait_for_all() const { cluster_wait(); }
    template <class T>
    __device__ T& of(T& mine, int rank) const {
        return *of_block(&mine, rank);
    }
};

inline constexpr int digits = 3;
inline constexpr int bins = 2048;
inline constexpr int elsewhere = bins;
inline constexpr int bins_of_a_sum = warp_size;
inline constexpr int sums_of_bins = bins / bins_of_a_sum;
// The bits below each digit.
__device__ constexpr int shift_of(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }

template <int most_blocks>
struct alignas(16) Histogram {
    std::uint32_t bins[dsa::bins + 4];              // one more for keys that lie elsewhere: counting needs no branch
    std::uint32_t sums[most_blocks][sums_of_bins];  // of every block
};

// Where the k-th best is: among the keys from low to high, of which there are `inside`, and `wanted` are chosen.
struct Place {
    std::uint32_t low, high, wanted, inside;
    std::uint32_t above_before, inside_before;  // of blocks before this one: keys above, keys inside
};

template <int most_blocks>
struct HoldingShared {
    Histogram<most_blocks> histograms[digits];
    struct {
        Place place;
        std::int32_t first_nan;  // of the row
    } found;
    std::int32_t first_nan;  // of this block
    std::int32_t first_nans[most_blocks];
    std::uint32_t before_warp[2][holding_warps];
};

// A thread's scores as keys; 0, below all keys, where there is no candidate. A warp's are neighbours in the row.
template <int pieces>
struct Held {
    static constexpr int count = pieces * scores_of_a_load;
    std::uint32_t keys[count];
    std::int32_t first;  // where keys[0] lies among the row's candidates

    __device__ static constexpr int offset(int i) {
        return i / scores_of_a_load * (warp_size * scores_of_a_load) + i % scores_of_a_load;
    }
};

struct alignas(16) FourScores {
    float v[scores_of_a_load];
};

// A thread's scores, the first of them the row's candidate `first`, which may lie before the row's or beyond its end;
// returns a bit for each that is a candidate. row.scores + first is a multiple of 16 bytes.
template <int pieces>
__device__ std::uint32_t load(const RowOfScores& row, std::int32_t first, FourScores (&scores)[pieces]) {
    constexpr int count = Held<pieces>::count;
    const auto size = static_cast<std::int32_t>(row.count);
    if (first >= 0 && first + Held<pieces>::offset(count - 1) < size) {
#pragma unroll
        for (int j = 0; j < pieces; ++j)
            scores[j] =
                *reinterpret_cast<const FourScores*>(row.scores + first + Held<pieces>::offset(j * scores_of_a_load));
        return ~0U;
    }
    std::uint32_t exists = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
        const std::int32_t at = first + Held<pieces>::offset(i);
        const bool is_candidate = at >= 0 && at < size;
        scores[i / scores_of_a_load].v[i % scores_of_a_load] = is_candidate ? row.scores[at] : 0.0F;
        if (is_candidate) exists |= 1U << i;
    }
    return exists;
}

// Where a thread of the first block begins.
template <int pieces>
__device__ std::int32_t first_of(const RowOfScores& row) {
    const auto lead = reinterpret_cast<std::uintptr_t>(row.scores) % sizeof(FourScores) / sizeof(float);
    return (warp_id() * warp_size * pieces + lane_id()) * scores_of_a_load - static_cast<std::int32_t>(lead);
}

template <int pieces>
__device__ Held<pieces> hold(const RowOfScores& row, int rank, bool& has_nan) {
    Held<pieces> held;
    held.first = first_of<pieces>(row) + rank * static_cast<std::int32_t>(scores_held(pieces));
    FourScores scores[pieces];
    const std::uint32_t exists = load(row, held.first, scores);
    has_nan = false;
#pragma unroll
    for (int i = 0; i < held.count; ++i) {
        const float score = scores[i / scores_of_a_load].v[i % scores_of_a_load];
        has_nan = has_nan || is_nan(score);
        held.keys[i] = (exists >> i & 1) != 0 ? key_of(score) : 0;
    }
    return held;
}

// The sum of the values of the lanes before this one.
__device__ inline std::uint32_t sum_of_lanes_before(std::uint32_t value) {
    std::uint32_t sum = value;
#pragma unroll
    for (unsigned delta = 1; delta < warp_size; delta *= 2) {
        const std::uint32_t other = __shfl_up_sync(all_lanes, sum, delta);
        if (lane_id() >= static_cast<int>(delta)) sum += other;
    }
    return sum - value;
}

// One number of every block: the sum of all, and of those before this block.
struct OfBlocks {
    std::uint32_t all, before;
};

// One warp looks for the wanted-th best among 32 counts, the best ones in lane 0. It is in one of them: `place` now
// tells of that, and whose it is is returned.
template <class Group>
__device__ int find(const Group&, const OfBlocks& mine, Place& place) {
    const std::uint32_t above = sum_of_lanes_before(mine.all);
    const std::uint32_t votes = __ballot_sync(all_lanes, above < place.wanted && place.wanted <= above + mine.all);
    const int lane = __ffs(static_cast<int>(votes)) - 1;
    place.wanted -= __shfl_sync(all_lanes, above, lane);
    place.inside = __shfl_sync(all_lanes, mine.all, lane);
    if constexpr (Group::most > 1) {
        place.above_before += redux_add(lane_id() < lane ? mine.before : 0U);
        place.inside_before = __shfl_sync(all_lanes, mine.before, lane);
    }
    return lane;
}

// The counts of(r) of all blocks r.
template <class Group, class Of>
__device__ OfBlocks of_blocks(const Group& group, Of of) {
    OfBlocks sum{0, 0};
    std::uint32_t values[Group::most];
#pragma unroll
    for (int r = 0; r < Group::most; ++r) values[r] = of(min(r, group.size() - 1));
#pragma unroll
    for (int r = 0; r < Group::most; ++r) {
        if (r < group.size()) sum.all += values[r];
        if (r < group.rank()) sum.before += values[r];
    }
    return sum;
}

// One warp narrows the place by a digit that all blocks have counted, with `shift` bits below it.
template <class Group>
__device__ Place narrowed(const Group& group, Histogram<Group::most>& histogram, Place place, int shift) {
    // A lane has two sums, the better one's `upper`.
    static_assert(sums_of_bins == 2 * warp_size);
    const auto sum_of = [&](int i) { return of_blocks(group, [&](int r) { return histogram.sums[r][i]; }); };
    const OfBlocks upper = sum_of(sums_of_bins - 1 - 2 * lane_id()), lower = sum_of(sums_of_bins - 2 - 2 * lane_id());
    const int pair = find(group, {upper.all + lower.all, upper.before + lower.before}, place);
    int sum = sums_of_bins - 1 - 2 * pair;
    const std::uint32_t of_upper = __shfl_sync(all_lanes, upper.all, pair);
    if (place.wanted > of_upper) {
        place.wanted -= of_upper;
        if constexpr (Group::most > 1) place.above_before += __shfl_sync(all_lanes, upper.before, pair);
        --sum;
    }
    const int best = sum * bins_of_a_sum + bins_of_a_sum - 1;
    const auto of_bin = [&](int r) { return group.of(histogram.bins[best - lane_id()], r); };
    const int bin = best - find(group, of_blocks(group, of_bin), place);
    place.low += static_cast<std::uint32_t>(bin) << shift;
    place.high = place.low + ((1U << shift) - 1);
    return place;
}

// Sums of the neighbours in a histogram that the block has counted, to all blocks.
template <class Group>
__device__ void sum_bins(const Group& group, Histogram<Group::most>& histogram) {
    constexpr int own = sums_of_bins / holding_warps;
    std::uint32_t sums[own];
#pragma unroll
    for (int i = 0; i < own; ++i) sums[i] = histogram.bins[(warp_id() * own + i) * bins_of_a_sum + lane_id()];
#pragma unroll
    for (int i = 0; i < own; ++i) sums[i] = redux_add(sums[i]);
    if (lane_id() >= group.size()) return;
#pragma unroll
    for (int i = 0; i < own; ++i) group.of(histogram.sums[group.rank()][warp_id() * own + i], lane_id()) = sums[i];
}

// A few keys that a digit has left, in no order.
struct Few {
    static constexpr std::uint32_t room = warp_size;
    std::uint32_t keys[room];
    std::uint32_t count;
};

// The wanted-th best of the few, told by comparing all with all. Each warp finds it for itself.
__device__ inline Place told_apart(const Few& few, Place place) {
    const auto lane = static_cast<std::uint32_t>(lane_id());
    const std::uint32_t mine = lane < place.inside ? few.keys[lane] : 0;
    std::uint32_t above = 0, equal = 0;
    for (std::uint32_t i = 0; i < place.inside; ++i) {
        const std::uint32_t other = few.keys[i];
        above += other > mine ? 1 : 0;
        equal += other == mine ? 1 : 0;
    }
    const bool is_it = lane < place.inside && above < place.wanted && place.wanted <= above + equal;
    const int from = __ffs(static_cast<int>(__ballot_sync(all_lanes, is_it))) - 1;
    place.low = place.high = __shfl_sync(all_lanes, mine, from);
    place.wanted -= __shfl_sync(all_lanes, above, from);
    place.inside = __shfl_sync(all_lanes, equal, from);
    return place;
}

template <class Memory>
__device__ void clear_histogram(Memory& memory) {
    for (int i = static_cast<int>(threadIdx.x); i <= elsewhere; i += holding_threads) memory.histogram.bins[i] = 0;
    if (threadIdx.x == 0) memory.few.count = 0;
}

// Narrows the place by a digit that the threads have counted in memory.histogram. All threads of the block, which is
// alone, come after a barrier.
template <class Memory>
__device__ Place counted(Memory& memory, Place place, int shift) {
    sum_bins(Alone{}, memory.histogram);
    __syncthreads();
    if (warp_id() == 0) {
        place = narrowed(Alone{}, memory.histogram, place, shift);
        if (lane_id() == 0) memory.place = place;
    }
    __syncthreads();
    return memory.place;
}

// The same where the place holds a few keys, and memory.few none. each(see) calls see(key) for a thread's keys.
template <class Memory, class Each>
__device__ Place told_apart(Memory& memory, const Place& place, Each each) {
    each([&](std::uint32_t key) {
        if (key - place.low <= place.high - place.low) memory.few.keys[atomicAdd(&memory.few.count, 1U)] = key;
    });
    __syncthreads();
    return told_apart(memory.few, place);
}

// Narrows the place until it holds no more keys than are wanted of it, or a single key, or `digits` were counted.
// each(see) calls see(key) for a thread's keys. `memory` has a histogram, a place and a few keys. All threads come
// after a barrier; is_clear: and after clear_histogram.
template <class Memory, class Each>
__device__ Place narrowed_to(Memory& memory, Place place, int most_digits, bool is_clear, Each each) {
    for (int digit = 0; digit < most_digits && place.low != place.high && place.inside != place.wanted; ++digit) {
        if (digit > 0 && place.inside <= Few::room) return told_apart(memory, place, each);
        constexpr int digit_bits = 11;
        const int shift = max(0, key_bits - digit_bits - __clz(place.high - place.low));
        if (digit > 0 || !is_clear) {
            clear_histogram(memory);
            __syncthreads();
        }
        each([&](std::uint32_t key) {
            const std::uint32_t from_low = key - place.low;
            const bool is_covered = from_low <= place.high - place.low;
            atomicAdd(&memory.histogram.bins[is_covered ? from_low >> shift : elsewhere], 1U);
        });
        __syncthreads();
        place = counted(memory, place, shift);
    }
    return place;
}

// Calls see(i, slot) for the thread's keys i in `chosen`, where slot counts the block's chosen ones in the row's
// order. All threads come.
template <int pieces, class See>
__device__ void in_order(std::uint32_t chosen, std::uint32_t (&before_warp)[holding_warps], See see) {
    constexpr int words = (pieces + 3) / 4;
    constexpr std::uint32_t of_a_piece = (1U << scores_of_a_load) - 1;
    // A byte a piece: a warp has at most 128 keys in each.
    std::uint32_t counts[words]{}, before[words], all[words];
#pragma unroll
    for (int j = 0; j < pieces; ++j)
        counts[j / 4] |= static_cast<std::uint32_t>(__popc(chosen >> (j * scores_of_a_load) & of_a_piece))
                         << j % 4 * 8;
    std::uint32_t of_warp = 0;
#pragma unroll
    for (int w = 0; w < words; ++w) {
        before[w] = sum_of_lanes_before(counts[w]);
        all[w] = __shfl_sync(all_lanes, before[w] + counts[w], warp_size - 1);
        const std::uint32_t pairs = (all[w] & 0xff00ffU) + (all[w] >> 8 & 0xff00ffU);
        of_warp += (pairs & 0xffffU) + (pairs >> 16);
    }
    if (lane_id() == 0) before_warp[warp_id()] = of_warp;
    __syncthreads();
    std::uint32_t slot = redux_add(lane_id() < warp_id() ? before_warp[lane_id()] : 0U);
#pragma unroll
    for (int j = 0; j < pieces; ++j) {
        std::uint32_t own = slot + (before[j / 4] >> j % 4 * 8 & 0xffU);
#pragma unroll
        for (int i = j * scores_of_a_load; i < (j + 1) * scores_of_a_load; ++i) {
            const bool is_chosen = (chosen >> i & 1) != 0;
            if (is_chosen) see(i, own);
            own += is_chosen ? 1 : 0;
        }
        slot += all[j / 4] >> j % 4 * 8 & 0xffU;
    }
}

template <int pieces>
__device__ void tell_first_nan(std::int32_t& first_nan, const RowOfScores& row, const Held<pieces>& held) {
#pragma unroll
    for (int i = 0; i < held.count; ++i) {
        const std::int32_t at = held.first + held.offset(i);
        if (held.keys[i] != 0 && is_nan(row.scores[at]))
            atomicMin(&first_nan, static_cast<std::int32_t>(row.begin) + at);
    }
}

// The keys that a digit of the place's covers. The place begins above 0, the key of those that are not there.
template <int most_blocks, int pieces>
__device__ void count_digit(Histogram<most_blocks>& histogram, const Held<pieces>& held, const Place& place,
                            int digit) {
    const std::uint32_t range = place.high - place.low;
    const int shift = shift_of(digit);
#pragma unroll
    for (int i = 0; i < held.count; ++i) {
        const std::uint32_t from_low = held.keys[i] - place.low;
        atomicAdd(&histogram.bins[from_low <= range ? from_low >> shift : elsewhere], 1U);
    }
}

// A bit for each of the thread's keys that are chosen. Where only some of the equal ones are, those are the first.
template <int most_blocks, int pieces>
__device__ std::uint32_t chosen_of(HoldingShared<most_blocks>& memory, const Held<pieces>& held, const Place& place) {
    std::uint32_t above = 0, reached = 0;
#pragma unroll
    for (int i = 0; i < held.count; ++i)
        if (held.keys[i] >= place.low) reached |= 1U << i;
    if (place.inside == place.wanted) return reached;
#pragma unroll
    for (int i = 0; i < held.count; ++i)
        if (held.keys[i] > place.high) above |= 1U << i;
    std::uint32_t first_ones = 0;
    in_order<pieces>(reached & ~above, memory.before_warp[0], [&](int i, std::uint32_t before) {
        if (place.inside_before + before < place.wanted) first_ones |= 1U << i;
    });
    return above | first_ones;
}

// A few rows wait for memory twice, for where they begin and end and then for the scores. A block asks for its part
// of the row ahead, as if all of that were candidates.
__device__ inline void prefetch_row(const TopK& call, std::int64_t t, std::int64_t first, std::int64_t most) {
    constexpr unsigned few = 264;  // blocks, two an H100's multiprocessor
    const std::int64_t bytes = min(most, call.S - first) * std::int64_t{sizeof(float)};
    const float* from = call.logits + t * call.S + first;
    if (threadIdx.x == 0 && gridDim.x <= few && bytes > 0 &&
        (reinterpret_cast<std::uintptr_t>(from) | static_cast<std::uintptr_t>(bytes)) % sizeof(FourScores) == 0)
        bulk_prefetch(from, static_cast<int>(bytes));
}

// The row's answer. All threads of all its blocks come.
template <int pieces, class Group>
__device__ void select_held(const TopK& call, std::int64_t t, const Group& group) {
    auto& memory = shared<HoldingShared<Group::most>>();
    prefetch_row(call, t, group.rank() * scores_held(pieces), scores_held(pieces));
    group.say();
    const RowOfScores row = row_of(call, t);
    std::int32_t* indices = call.indices + t * call.k;  // [k]
    const bool chooses = row.count > call.k;
    bool has_nan;
    const Held<pieces> held = hold<pieces>(row, group.rank(), has_nan);
    for (int i = static_cast<int>(threadIdx.x); i < digits * bins; i += holding_threads)
        memory.histograms[i / bins].bins[i % bins] = 0;
    if (threadIdx.x < digits) memory.histograms[threadIdx.x].bins[elsewhere] = 0;
    if (threadIdx.x == 0) memory.first_nan = no_position;
    __syncthreads();
    if (has_nan && !call.nan_as_minus_infinity) tell_first_nan(memory.first_nan, row, held);
    Place place{.low = 1,
                .high = ~0U,
                .wanted = static_cast<std::uint32_t>(call.k),
                .inside = 0,
                .above_before = 0,
                .inside_before = 0};
    std::int32_t first_nan = no_position;
    for (int digit = 0; digit < digits; ++digit) {
        Histogram<Group::most>& histogram = memory.histograms[digit];
        if (chooses) count_digit(histogram, held, place, digit);
        __syncthreads();
        if (digit == 0) {
            group.wait_for_all();
            const auto r = static_cast<int>(threadIdx.x);
            if (r < group.size()) group.of(memory.first_nans[group.rank()], r) = memory.first_nan;
        }
        sum_bins(group, histogram);
        group.sync();
        if (warp_id() == 0) {
            if (digit == 0) first_nan = redux_min(memory.first_nans[lane_id() % group.size()]);
            if (chooses) place = narrowed(group, histogram, place, shift_of(digit));
            if (lane_id() == 0) memory.found = {place, first_nan};
        }
        __syncthreads();
        place = memory.found.place;
        first_nan = memory.found.first_nan;
        if (!chooses || first_nan != no_position || place.inside == place.wanted) break;
    }
    group.say();
    if (first_nan != no_position) {
        if (group.rank() == 0) tell_nan(indices, call.k, first_nan);
    } else if (chooses) {
        const std::uint32_t chosen = chosen_of(memory, held, place);
        const std::int32_t first = static_cast<std::int32_t>(row.begin) + held.first;
        std::int32_t* mine = indices + place.above_before + min(place.inside_before, place.wanted);
        in_order<pieces>(chosen, memory.before_warp[1],
                         [&](int i, std::uint32_t before) { mine[before] = first + held.offset(i); });
    } else {
#pragma unroll
        for (int i = 0; i < held.count; ++i) {
            const std::int32_t at = held.first + held.offset(i);
            if (held.keys[i] != 0) indices[at] = static_cast<std::int32_t>(row.begin) + at;
        }
        if (group.rank() == 0) leave_unused(indices, row.count, call.k);
    }
    group.wait_for_all();
}

// A row of S scores fits if it also does where it begins off a load's 16 bytes.
constexpr bool fits_held(std::int64_t S, std::int64_t held) {
    return S + (S % scores_of_a_load == 0 ? 0 : scores_of_a_load - 1) <= held;
}

}  // namespace dsa
