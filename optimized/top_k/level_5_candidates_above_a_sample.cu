// Level 5. A long row passes by once. A sample of it tells a score that a few more than k exceed; only those are
// kept, in shared memory and in order. The sample decides how fast it goes, never what is chosen: where more are kept
// than there is room for, the k best of them stay and the k-th best is exceeded from then on; where fewer than k
// exceed it, the row passes by once more without. Bound: bytes, 4 a score.
#include "optimized/support/launch.h"
#include "optimized/top_k/in_registers.cuh"

namespace dsa {
namespace {

constexpr int pieces = 4;  // of 4 scores a thread and tile; as many are under way
constexpr int tile = scores_held(pieces);
constexpr std::uint32_t room = 6144;  // candidates
constexpr int most_k = 4096;
constexpr int sampled = 8;  // scores a thread
constexpr int sample_pieces = sampled / scores_of_a_load;

struct Shared {
    std::uint32_t keys[room];  // of newcomers, the bits of their scores
    std::int32_t positions[room];
    std::int32_t best[most_k];
    Histogram<1> histogram;
    Place place;
    Few few;
    std::uint32_t of_warps[2][holding_warps];
    std::uint32_t sums[32];
    std::uint32_t appended, largest;
    bool is_clear;  // is the histogram
    std::int32_t first_nan;
};

// The candidates in shared memory, in the order of their positions.
struct List {
    const Shared& memory;
    std::uint32_t count;

    __device__ std::int64_t size() const { return count; }
    __device__ Candidate candidate(std::int64_t i) const { return {memory.keys[i], memory.positions[i]}; }
};

// Any score exceeds a threshold that is a NaN.
__device__ bool exceeds(float score, float threshold) { return !(score <= threshold); }

// What a block knows of its row while that passes by.
struct Stream {
    float threshold;
    std::uint32_t low;   // all keys that exceed the threshold are at least this
    std::uint32_t kept;  // candidates in the list
    std::uint32_t old;   // of those, the first ones have keys; the newcomers after them have scores
    bool is_guess;       // the threshold is one, not the k-th best so far
};

// All keys from `low` on. The float below 0's key is a NaN, which every score exceeds.
__device__ Stream above(std::uint32_t low) {
    return {.threshold = just_below(low), .low = low, .kept = 0, .old = 0, .is_guess = low != 0};
}

// A digit where what is looked for is likely to lie within four octaves of a known key: tells it to a part of 512.
constexpr int near_bits = 25, near_shift = near_bits - 11;
constexpr std::uint32_t near_range = (1U << near_bits) - 1, top_bin = near_range >> near_shift;

// Newcomers get their keys, and it becomes known whether one of them is NaN, and the largest key. All threads come,
// after a barrier. Where the histogram is clear, all are counted too, and that is told.
__device__ bool count_in(Shared& memory, Stream& stream) {
    const bool counts = memory.is_clear;
    std::uint32_t largest = 0;
    for (std::uint32_t i = threadIdx.x; i < stream.kept; i += holding_threads) {
        if (i >= stream.old) {
            const float score = __uint_as_float(memory.keys[i]);
            if (is_nan(score)) atomicMin(&memory.first_nan, memory.positions[i]);
            memory.keys[i] = key_of(score);
        }
        const std::uint32_t key = memory.keys[i];
        largest = max(largest, key);
        // What lies higher is counted with the highest bin.
        if (counts) atomicAdd(&memory.histogram.bins[min(key - stream.low, near_range) >> near_shift], 1U);
    }
    largest = redux_max(largest);
    if (lane_id() == 0) atomicMax(&memory.largest, largest);
    stream.old = stream.kept;
    __syncthreads();
    if (threadIdx.x == 0) memory.is_clear = false;
    return counts;
}

// Where the k-th best of the list is, after count_in.
__device__ Place kth_of_list(Shared& memory, const Stream& stream, std::uint32_t k, bool is_counted) {
    const auto each = [&](auto see) {
        for (std::uint32_t i = threadIdx.x; i < stream.kept; i += holding_threads) see(memory.keys[i]);
    };
    Place place{.low = stream.low,
                .high = memory.largest,
                .wanted = k,
                .inside = stream.kept,
                .above_before = 0,
                .inside_before = 0};
    if (is_counted) {
        const Place near = counted(memory, place, near_shift);
        if (near.low != stream.low + (top_bin << near_shift)) {
            if (near.inside == near.wanted) return near;
            if (near.inside <= Few::room) return told_apart(memory, near, each);
            place = near;
        }
    }
    return narrowed_to(memory, place, digits + 1, false, each);
}

// A key that, going by a sample, a few more than k of the row reach; 0 where a sample tells nothing.
__device__ std::uint32_t guess(Shared& memory, const RowOfScores& row, std::uint32_t k) {
    constexpr int count = holding_threads * sampled;
    if (row.count <= room) return 0;
    const auto lead =
        static_cast<std::int32_t>(reinterpret_cast<std::uintptr_t>(row.scores) % sizeof(FourScores) / sizeof(float));
    // 64 bytes at once, as the memory gives them, by 4 threads.
    constexpr int together = 4;
    const std::int64_t groups = (lead + row.count) / (together * scores_of_a_load);
    std::uint32_t keys[sampled];
#pragma unroll
    for (int j = 0; j < sample_pieces; ++j) {
        const int nth = (j * holding_threads + static_cast<int>(threadIdx.x)) / together;
        const std::int64_t piece =
            groups * nth / (count / scores_of_a_load / together) * together + threadIdx.x % together;
        const std::int64_t at = max(piece, std::int64_t{lead > 0}) * scores_of_a_load - lead;
        const FourScores scores = *reinterpret_cast<const FourScores*>(row.scores + at);
#pragma unroll
        for (int i = 0; i < scores_of_a_load; ++i) keys[j * scores_of_a_load + i] = key_of(scores.v[i]);
    }
    // As many of the sample are among the best, five standard deviations included.
    const float expected = static_cast<float>(count) * static_cast<float>(k) / static_cast<float>(row.count);
    const auto rank = static_cast<std::uint32_t>(expected + 5.0F * sqrtf(expected) + 8.0F);
    if (rank >= count) return 0;
    std::uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < sampled; ++i) largest = max(largest, keys[i]);
    largest = redux_max(largest);
    if (lane_id() == 0) atomicMax(&memory.largest, largest);
    __syncthreads();
    // What lies lower is counted with the lowest bin.
    largest = memory.largest;
    Place place{.low = largest - min(largest, near_range),
                .high = largest,
                .wanted = rank,
                .inside = count,
                .above_before = 0,
                .inside_before = 0};
    const std::uint32_t low = place.low;
#pragma unroll
    for (int i = 0; i < sampled; ++i) atomicAdd(&memory.histogram.bins[(max(keys[i], low) - low) >> near_shift], 1U);
    __syncthreads();
    place = counted(memory, place, near_shift);
    clear_histogram(memory);
    if (threadIdx.x == 0) memory.largest = 0;
    if (place.low == low) {
        const Place all{
            .low = 0, .high = ~0U, .wanted = rank, .inside = count, .above_before = 0, .inside_before = 0};
        __syncthreads();
        place = narrowed_to(memory, all, 2, true, [&](auto see) {
#pragma unroll
            for (int i = 0; i < sampled; ++i) see(keys[i]);
        });
        clear_histogram(memory);
    }
    return place.low;
}

// The k best of the list stay.
__device__ void cut(Shared& memory, Stream& stream, std::uint32_t k) {
    __syncthreads();
    const bool is_counted = count_in(memory, stream);
    const Place place = kth_of_list(memory, stream, k, is_counted);
    // put_best wants a key: of several that are all wanted, the lowest, with those above it.
    std::uint32_t lowest = place.low;
    std::uint32_t wanted = place.wanted;
    if (place.low != place.high) {
        // all inside are wanted: exactly k keys are at least place.low
        lowest = place.low - 1;
        wanted = 0;
    }
    const Search kth{.prefix = lowest, .bits = key_bits, .wanted = wanted, .inside = place.inside};
    put_best(memory.sums, List{memory, stream.kept}, kth, [&](std::uint32_t slot, Candidate best) {
        memory.keys[slot] = best.key;
        memory.positions[slot] = best.position;
    });
    stream = {.threshold = place.low != place.high ? just_below(place.low) : score_of(place.low),
              .low = place.low,
              .kept = k,
              .old = k,
              .is_guess = false};
    if (threadIdx.x == 0) memory.largest = 0;
    __syncthreads();
}

struct Tile {
    FourScores scores[pieces];
    std::uint32_t exists;
    std::int32_t first;

    __device__ float score(int i) const { return scores[i / scores_of_a_load].v[i % scores_of_a_load]; }
    __device__ std::uint32_t exceeding(float threshold) const {
        std::uint32_t found = 0;
#pragma unroll
        for (int i = 0; i < pieces * scores_of_a_load; ++i)
            if (exceeds(score(i), threshold)) found |= 1U << i;
        return found & exists;
    }
};

// Counts of a warp's lanes, a byte a piece: of those before this lane, and of all.
struct Counts {
    std::uint32_t before, all;

    __device__ explicit Counts(std::uint32_t chosen) {
        std::uint32_t mine = 0;
#pragma unroll
        for (int j = 0; j < pieces; ++j)
            mine |= static_cast<std::uint32_t>(__popc(chosen >> (j * scores_of_a_load) & 15U)) << j * 8;
        before = sum_of_lanes_before(mine);
        all = __shfl_sync(all_lanes, before + mine, warp_size - 1);
    }
    __device__ std::uint32_t of_warp() const {
        const std::uint32_t pairs = (all & 0xff00ffU) + (all >> 8 & 0xff00ffU);
        return (pairs & 0xffffU) + (pairs >> 16);
    }
};

// A warp's candidates into the list from `slot` on.
__device__ void append(Shared& memory, const RowOfScores& row, const Tile& mine, std::uint32_t chosen,
                       const Counts& counts, std::uint32_t slot) {
#pragma unroll
    for (int j = 0; j < pieces; ++j) {
        std::uint32_t own = slot + (counts.before >> j * 8 & 0xffU);
#pragma unroll
        for (int i = j * scores_of_a_load; i < (j + 1) * scores_of_a_load; ++i) {
            if ((chosen >> i & 1) == 0) continue;
            const auto position = static_cast<std::int32_t>(row.begin) + mine.first + Held<pieces>::offset(i);
            memory.keys[own] = __float_as_uint(mine.score(i));
            memory.positions[own++] = position;
        }
        slot += counts.all >> j * 8 & 0xffU;
    }
}

__device__ Tile load_tile(const RowOfScores& row, std::int32_t first) {
    Tile mine;
    mine.first = first;
    mine.exists = load(row, first, mine.scores);
    return mine;
}

// A tile that does not fit into the list: loaded again warp by warp, and cut where that is needed.
__device__ void append_slowly(Shared& memory, std::uint32_t k, const RowOfScores& row, std::int32_t first,
                              const std::uint32_t (&of_warps)[holding_warps], Stream& stream) {
    for (int w = 0; w < holding_warps; ++w) {
        if (stream.kept + of_warps[w] > room) cut(memory, stream, k);
        if (warp_id() == w) {
            const Tile mine = load_tile(row, first);
            const std::uint32_t chosen = mine.exceeding(stream.threshold);
            const Counts counts(chosen);
            append(memory, row, mine, chosen, counts, stream.kept);
            if (lane_id() == 0) memory.appended = counts.of_warp();
        }
        __syncthreads();
        stream.kept += memory.appended;
        __syncthreads();
    }
}

// The row passes by; what exceeds the threshold is in the list.
__device__ void pass_by(Shared& memory, std::uint32_t k, const RowOfScores& row, std::int32_t first, Stream& stream) {
    int parity = 0;
    const auto end = static_cast<std::int32_t>(row.count) + scores_of_a_load - 1;
    Tile next = load_tile(row, first);
    for (std::int32_t begin = 0; begin < end; begin += tile, first += tile, parity ^= 1) {
        const Tile mine = next;
        next = load_tile(row, first + tile);
        const std::uint32_t chosen = mine.exceeding(stream.threshold);
        const Counts counts(chosen);
        std::uint32_t(&of_warps)[holding_warps] = memory.of_warps[parity];
        if (lane_id() == 0) of_warps[warp_id()] = counts.of_warp();
        __syncthreads();
        const std::uint32_t of_warp = lane_id() < holding_warps ? of_warps[lane_id()] : 0;
        const std::uint32_t all = redux_add(of_warp);
        const std::uint32_t before = redux_add(lane_id() < warp_id() ? of_warp : 0U);
        if (stream.kept + all <= room) {
            append(memory, row, mine, chosen, counts, stream.kept + before);
            stream.kept += all;
        } else {
            append_slowly(memory, k, row, first, of_warps, stream);
            next = load_tile(row, first + tile);
        }
    }
    __syncthreads();
}

// The list's k best, a stretch of neighbours a thread. They meet in shared memory first, so that they leave in whole
// lines.
__device__ void put_list(Shared& memory, std::int32_t* indices, std::uint32_t count, std::uint32_t k,
                         const Place& place) {
    constexpr int half = 16;
    const std::uint32_t own = (count + holding_threads - 1) / holding_threads | 1;  // odd: no bank conflicts
    const std::uint32_t from = min(threadIdx.x * own, count), to = min(from + own, count);
    std::uint32_t mine = 0;
    for (std::uint32_t i = from; i < to; ++i) {
        const std::uint32_t key = memory.keys[i];
        mine += key > place.high ? 1U : key >= place.low ? 1U << half : 0U;
    }
    const std::uint32_t before = sum_before(mine, memory.sums).before;
    std::uint32_t above = before & 0xffffU, inside = before >> half;
    for (std::uint32_t i = from; i < to; ++i) {
        const std::uint32_t key = memory.keys[i];
        const bool is_above = key > place.high;
        const bool is_inside = !is_above && key >= place.low;
        if (is_above || (is_inside && inside < place.wanted))
            memory.best[above + min(inside, place.wanted)] = memory.positions[i];
        above += is_above ? 1 : 0;
        inside += is_inside ? 1 : 0;
    }
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < k; i += holding_threads) indices[i] = memory.best[i];
}

__global__ void __launch_bounds__(holding_threads, 2) top_k_sampled(__grid_constant__ const TopK call) {
    Shared& memory = shared<Shared>();
    const RowOfScores row = row_of(call, blockIdx.x);
    std::int32_t* indices = call.indices + blockIdx.x * call.k;  // [k]
    const auto k = static_cast<std::uint32_t>(call.k);
    const std::int32_t first = first_of<pieces>(row);
    if (threadIdx.x == 0) {
        memory.first_nan = no_position;
        memory.largest = 0;
        memory.is_clear = true;
    }
    clear_histogram(memory);
    __syncthreads();
    Stream stream = above(guess(memory, row, k));
    pass_by(memory, k, row, first, stream);
    bool is_counted = count_in(memory, stream);
    // A NaN exceeds every threshold: where it ranks last, it may have been kept in the place of a better one.
    const bool has_nan = memory.first_nan != no_position;
    if (has_nan && !call.nan_as_minus_infinity) return tell_nan(indices, call.k, memory.first_nan);
    if (stream.is_guess && (has_nan || stream.kept < min(std::int64_t{k}, row.count))) {
        stream = above(0);
        pass_by(memory, k, row, first, stream);
        is_counted = count_in(memory, stream);
    }
    if (row.count <= call.k) return take_all(indices, call.k, row.begin, row.count);
    put_list(memory, indices, stream.kept, k, kth_of_list(memory, stream, k, is_counted));
}

}  // namespace

std::string top_k_level_5_declines(const TopK& call) {
    constexpr std::int64_t most_S = 1 << 30;
    if (call.k > most_k) return sentence("there is room for a k of up to ", most_k, "; it is ", call.k);
    if (call.S > most_S) return sentence("rows have up to ", most_S, " scores; these have ", call.S);
    return "";
}

void top_k_level_5(const TopK& call) {
    launch("top_k_sampled", top_k_sampled,
           {.blocks = call.T, .threads = holding_threads, .shared_bytes = sizeof(Shared), .stream = call.stream},
           call);
}

}  // namespace dsa
