// The k-th best of a list of keys by its digits, most significant first: a histogram of one digit tells in which bin
// the k-th best lies and how many stand above it; the next digit is looked at only within that bin. Then the best in
// order.
//
// A list answers size() and candidate(i), i < size(); a block of threads walks it together.
#pragma once

#include "optimized/top_k/order.cuh"

namespace dsa {

inline constexpr int key_bits = 32;

struct Candidate {
    std::uint32_t key;
    std::int32_t position;
};

template <int digit_bits>
struct SelectShared {
    std::uint32_t bins[1 << digit_bits];
    std::uint32_t sums[32];
    std::uint32_t bin, wanted, inside;
};

// Keys whose first `bits` bits are `prefix` are still to be told apart; the `wanted` best of them are among the best.
struct Search {
    std::uint32_t prefix = 0;
    int bits = 0;
    std::uint32_t wanted;
    std::uint32_t inside = 0;  // how many have this prefix

    __device__ bool covers(std::uint32_t key) const { return bits == 0 || key >> (key_bits - bits) == prefix; }
    // Covered, or better than all covered ones.
    __device__ bool may_be_chosen(std::uint32_t key) const { return bits == 0 || key >> (key_bits - bits) >= prefix; }
};

// The bin of the wanted-th best, after the bins of a digit of `width` bits were counted. All threads come.
template <int digit_bits>
__device__ Search narrowed(SelectShared<digit_bits>& memory, Search search, int width) {
    const int bins = 1 << width;
    const int threads = static_cast<int>(blockDim.x);
    const int own = (bins + threads - 1) / threads;  // neighbouring bins of a thread, from the best one downward
    const int first = static_cast<int>(threadIdx.x) * own;
    std::uint32_t mine = 0;
    for (int i = first; i < min(first + own, bins); ++i) mine += memory.bins[bins - 1 - i];
    std::uint32_t above = sum_before(mine, memory.sums).before;
    if (above < search.wanted && search.wanted <= above + mine)  // true of one thread
        for (int i = first; i < min(first + own, bins); ++i) {
            const std::uint32_t inside = memory.bins[bins - 1 - i];
            if (search.wanted <= above + inside) {
                memory.bin = static_cast<std::uint32_t>(bins - 1 - i);
                memory.wanted = search.wanted - above;
                memory.inside = inside;
                break;
            }
            above += inside;
        }
    __syncthreads();
    search.prefix = search.bits == 0 ? memory.bin : search.prefix << width | memory.bin;
    search.bits += width;
    search.wanted = memory.wanted;
    search.inside = memory.inside;
    __syncthreads();
    return search;
}

__device__ inline int width_of_next_digit(const Search& search, int digit_bits) {
    return min(digit_bits, key_bits - search.bits);
}

template <int digit_bits>
__device__ void clear_bins(SelectShared<digit_bits>& memory) {
    for (int i = static_cast<int>(threadIdx.x); i < 1 << digit_bits; i += static_cast<int>(blockDim.x))
        memory.bins[i] = 0;
    __syncthreads();
}

template <int digit_bits>
__device__ void count(SelectShared<digit_bits>& memory, const Search& search, int width, std::uint32_t key) {
    if (!search.covers(key)) return;
    const std::uint32_t digit = key >> (key_bits - search.bits - width) & ((1U << width) - 1);
    atomicAdd(&memory.bins[digit], 1U);
}

// The key of the k-th best, as a search of all bits; 0 < k <= list.size().
template <int digit_bits, class List>
__device__ Search kth_best(SelectShared<digit_bits>& memory, const List& list, std::uint32_t k) {
    Search search{.wanted = k};
    while (search.bits < key_bits) {
        const int width = width_of_next_digit(search, digit_bits);
        clear_bins(memory);
        for (std::int64_t i = threadIdx.x; i < list.size(); i += blockDim.x)
            count(memory, search, width, list.candidate(i).key);
        __syncthreads();
        search = narrowed(memory, search, width);
    }
    return search;
}

// Calls put(slot, candidate) for the best, in the list's order: all keys above the k-th best's, and the first
// `wanted` of those equal to it. A slot is written when the block has read beyond it, so a list may be cut in place.
// All threads come.
template <class List, class Put>
__device__ void put_best(std::uint32_t (&sums)[32], const List& list, const Search& kth, Put put) {
    constexpr int half = 16;  // bits: a block has fewer than 2^16 threads
    std::uint32_t above = 0, equal = 0;
    for (std::int64_t base = 0; base < list.size(); base += blockDim.x) {
        const std::int64_t i = base + threadIdx.x;
        const Candidate mine = i < list.size() ? list.candidate(i) : Candidate{0, 0};
        const bool is_above = i < list.size() && mine.key > kth.prefix;
        const bool is_equal = i < list.size() && mine.key == kth.prefix;
        const SumBefore sum = sum_before((is_above ? 1U : 0U) + (is_equal ? 1U << half : 0U), sums);
        const std::uint32_t equal_before = equal + (sum.before >> half);
        if (is_above || (is_equal && equal_before < kth.wanted))
            put(above + (sum.before & 0xffffU) + min(equal_before, kth.wanted), mine);
        above += sum.all & 0xffffU;
        equal += sum.all >> half;
    }
}

}  // namespace dsa
