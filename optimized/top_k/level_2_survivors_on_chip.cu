// Level 2. The row is read 16 bytes a thread, and in the common case twice: the first digit of 11 bits leaves few
// scores that can still be among the best, and the second reading brings those, in order, to shared memory, where the
// rest is done. Where they are too many (ties, or a large k), further digits are counted along the row first, as in
// level 1.
#include "optimized/support/launch.h"
#include "optimized/top_k/row.cuh"

namespace dsa {
namespace {

constexpr int threads = 512;
constexpr int digit_bits = 11;
constexpr int piece = 4;              // scores of 16 bytes
constexpr std::uint32_t most = 8192;  // survivors

struct Shared {
    SelectShared<digit_bits> select;
    Candidate survivors[most];
    std::int32_t first_nan;
};

struct Survivors {
    const Shared& memory;
    std::uint32_t count;

    __device__ std::int64_t size() const { return count; }
    __device__ Candidate candidate(std::int64_t i) const { return memory.survivors[i]; }
};

struct alignas(16) Piece {
    float v[piece];
};

// Calls see(i, scores, exists) for 4 neighbours of the row from candidate i on, every thread equally often; i may be
// below 0 and pieces may reach over the row's end, where exists is false.
template <class See>
__device__ void in_pieces(const RowOfScores& row, See see) {
    const auto lead =
        static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(row.scores) % sizeof(Piece) / sizeof(float));
    for (std::int64_t base = -lead; base < row.count; base += threads * piece) {
        const std::int64_t i = base + threadIdx.x * piece;
        Piece scores{};
        bool exists[piece];
#pragma unroll
        for (int j = 0; j < piece; ++j) exists[j] = i + j >= 0 && i + j < row.count;
        if (exists[0] && exists[piece - 1]) {
            scores = *reinterpret_cast<const Piece*>(row.scores + i);
        } else {
#pragma unroll
            for (int j = 0; j < piece; ++j)
                if (exists[j]) scores.v[j] = row.scores[i + j];
        }
        see(i, scores.v, exists);
    }
}

// The first digit of all scores, and whether one is NaN.
__device__ void count_first_digit(Shared& memory, const RowOfScores& row, const Search& search) {
    in_pieces(row, [&](std::int64_t i, const float(&scores)[piece], const bool(&exists)[piece]) {
#pragma unroll
        for (int j = 0; j < piece; ++j) {
            if (!exists[j]) continue;
            if (is_nan(scores[j])) atomicMin(&memory.first_nan, static_cast<std::int32_t>(row.begin + i + j));
            count(memory.select, search, digit_bits, key_of(scores[j]));
        }
    });
}

// Brings the survivors to shared memory, in order; returns how many there are.
__device__ std::uint32_t bring_survivors(Shared& memory, const RowOfScores& row, const Search& search) {
    std::uint32_t brought = 0;
    in_pieces(row, [&](std::int64_t i, const float(&scores)[piece], const bool(&exists)[piece]) {
        bool survives[piece];
        std::uint32_t mine = 0;
#pragma unroll
        for (int j = 0; j < piece; ++j) {
            survives[j] = exists[j] && search.may_be_chosen(key_of(scores[j]));
            mine += survives[j] ? 1 : 0;
        }
        const SumBefore sum = sum_before(mine, memory.select.sums);
        std::uint32_t slot = brought + sum.before;
#pragma unroll
        for (int j = 0; j < piece; ++j) {
            if (!survives[j]) continue;
            memory.survivors[slot++] = {key_of(scores[j]), static_cast<std::int32_t>(row.begin + i + j)};
        }
        brought += sum.all;
    });
    __syncthreads();
    return brought;
}

__global__ void __launch_bounds__(threads) top_k_survivors(__grid_constant__ const TopK call) {
    Shared& memory = shared<Shared>();
    const RowOfScores row = row_of(call, blockIdx.x);
    std::int32_t* indices = call.indices + blockIdx.x * call.k;  // [k]
    const auto k = static_cast<std::uint32_t>(call.k);
    Search search{.wanted = k};
    if (threadIdx.x == 0) memory.first_nan = no_position;
    clear_bins(memory.select);
    count_first_digit(memory, row, search);
    __syncthreads();
    if (memory.first_nan != no_position && !call.nan_as_minus_infinity)
        return tell_nan(indices, call.k, memory.first_nan);
    if (row.count <= call.k) return take_all(indices, call.k, row.begin, row.count);
    search = narrowed(memory.select, search, digit_bits);
    // Survivors: k - wanted above the bin, and those inside it.
    while (search.bits < key_bits && k - search.wanted + search.inside > most) {
        const int width = width_of_next_digit(search, digit_bits);
        clear_bins(memory.select);
        in_pieces(row, [&](std::int64_t, const float(&scores)[piece], const bool(&exists)[piece]) {
#pragma unroll
            for (int j = 0; j < piece; ++j)
                if (exists[j]) count(memory.select, search, width, key_of(scores[j]));
        });
        __syncthreads();
        search = narrowed(memory.select, search, width);
    }
    const auto put = [&](std::uint32_t slot, Candidate best) { indices[slot] = best.position; };
    if (k - search.wanted + search.inside <= most) {
        const Survivors survivors{memory, bring_survivors(memory, row, search)};
        put_best(memory.select.sums, survivors, kth_best(memory.select, survivors, k), put);
    } else {
        put_best(memory.select.sums, row, search, put);
    }
}

}  // namespace

void top_k_level_2(const TopK& call) {
    launch("top_k_survivors", top_k_survivors,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call);
}

}  // namespace dsa
