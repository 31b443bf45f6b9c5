// Which slots of a query's selection count? Those in range whose index stands in no earlier slot. For warps that have
// a moment while rows come: no pass of its own over the indices.
//
// Each index sets a bit, by its hash, and is told whether the bit had been set: it is late. Of two slots with the
// same index one is late at least, but few are late that stand there once: of 2048 some 16 among 2^17 bits. The late
// ones are shown to everybody, and of a pair with the same index the higher slot does not count. Who was late is
// another one each time, what counts is not.
//
// Where too many are late, because many stand there twice, the slots go on in rounds. Each index hashes to a place,
// which is left to the lowest slot of those that come there. Who finds itself there is the first of its index. Who
// finds the same index there stands twice. Who finds another one comes to another place in the next round, together
// with its like. So nobody walks from place to place, and all slots of a thread go at once.
#pragma once

#include "optimized/hopper/barrier.h"

namespace dsa {

// threads: that ask, whole warps of a block. most: slots that they ask about. bits: of a hash to a word of the table.
template <int threads, int most, int bits>
struct DistinctSlots {
    static constexpr int each = most / threads, words = 1 << bits;
    static_assert(words >= 2 * most, "half of the places stay free");
#if defined(DSA_SIMULATOR)
    // Small cases shall have late ones, and go several rounds.
    static constexpr int bits_of_bit = 8, bits_of_place = 6, most_late = 32;
#else
    static constexpr int bits_of_bit = bits + 5, bits_of_place = bits, most_late = 64;
#endif

    struct alignas(16) Four {
        std::int32_t at[4];
    };
    struct Table {
        Four four[words / 4];  // of the bits, or of the lowest slots
        Four late[most_late / 4];
        std::int32_t slot_of_late[most_late];
        std::uint32_t twice[most / 32];
        int lates, rounds;

        __device__ std::int32_t& place(std::uint32_t i) { return four[i / 4].at[i % 4]; }
        __device__ std::uint32_t& bits_of(std::uint32_t i) { return reinterpret_cast<std::uint32_t&>(place(i)); }
    };
    // A thread's indices: slots thread, thread + threads, ...
    struct Mine {
        std::int32_t index[each];
    };
    std::uint32_t counts[most / 32];  // a bit a slot

    // The bits are there when all have come to the barrier again.
    __device__ void find(Table& table, const std::int32_t* row, int end, std::int64_t rows, int thread, int barrier) {
        find_counting(table, row, end, rows, thread, barrier,
                      [&](int i, std::uint32_t found) { counts[i / 32] = found; });
    }

    // The same of indices that have been read, where the table is clear and all have met since.
    __device__ void find(Table& table, Mine& mine, const std::int32_t* row, std::int64_t rows, int thread,
                         int barrier) {
        find_cleared(table, mine, row, rows, thread, barrier,
                     [&](int i, std::uint32_t found) { counts[i / 32] = found; });
    }

    // `threads` threads that meet at the named barrier. row: a query's indices. Slots before `end`, at most `most`,
    // are told of; `rows`: how many an index may point to. tell(i, counts): one lane for slots i ... i + 31, a bit
    // each.
    template <class Tell>
    __device__ static void find_counting(Table& table, const std::int32_t* row, int end, std::int64_t rows,
                                         int thread, int barrier, Tell tell) {
        Mine mine = read(row, end, thread);
        clear(table, thread);
        barrier_sync(barrier, threads);
        find_cleared(table, mine, row, rows, thread, barrier, tell);
    }
    // The same in steps, for who can ask early. Between the clearing of the table and its use all must meet.
    __device__ static Mine read(const std::int32_t* row, int end, int thread) {
        Mine mine;
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const int i = thread + j * threads;
            mine.index[j] = i < end ? row[i] : nobody;
        }
        return mine;
    }
    __device__ static void clear(Table& table, int thread) {
        for (int i = thread; i < words / 4; i += threads) table.four[i] = {};
        for (int i = thread; i < most / 32; i += threads) table.twice[i] = 0;
        if (thread < most_late / 4) table.late[thread] = {{no_late, no_late, no_late, no_late}};
        if (thread == 0) table.lates = table.rounds = 0;
    }
    template <class Tell>
    __device__ static void find_cleared(Table& table, Mine& mine, const std::int32_t* row, std::int64_t rows,
                                        int thread, int barrier, Tell tell) {
        std::uint32_t first = 0, late = 0;  // a bit a slot of this thread
#pragma unroll
        for (int j = 0; j < each; ++j) {
            std::int32_t& index = mine.index[j];
            if (index < 0 || index >= rows) index = nobody;
            if (index != nobody) first |= 1U << j;
            // Who is nobody sets no bit, somewhere: without branches all go at once.
            const std::uint32_t hash =
                hash_of(index != nobody ? index : thread + j * threads, multiplier_of(0), bits_of_bit);
            const std::uint32_t bit = index != nobody ? 1U << hash % 32 : 0;
            if ((atomicOr(&table.bits_of(hash / 32), bit) & bit) != 0) late |= 1U << j;
        }
        for (; late != 0; late &= late - 1) {
            const int slot = thread + (__ffs(static_cast<int>(late)) - 1) * threads;
            const int n = atomicAdd(&table.lates, 1);
            if (n >= most_late) break;
            table.late[n / 4].at[n % 4] = row[slot];
            table.slot_of_late[n] = slot;
        }
        barrier_sync(barrier, threads);
        const int lates = table.lates;
        if (lates > most_late) {
            first = find_in_rounds(table, row, first, thread, barrier);
        } else {
            for (int n = 0; n < lates; n += 4) {
                const Four four = table.late[n / 4];
                bool any = false;
#pragma unroll
                for (const std::int32_t index : four.at)
#pragma unroll
                    for (int j = 0; j < each; ++j) any |= mine.index[j] == index;
                if (any) meet(table, mine, thread, n);
            }
            barrier_sync(barrier, threads);
#pragma unroll
            for (int j = 0; j < each; ++j)
                if ((table.twice[(thread + j * threads) / 32] >> lane_id() & 1) != 0) first &= ~(1U << j);
        }
        barrier_sync(barrier, threads);  // the table may be used for something else
#pragma unroll
        for (int j = 0; j < each; ++j) {
            const std::uint32_t found = __ballot_sync(all_lanes, (first >> j & 1) != 0);
            if (lane_id() == 0) tell(thread + j * threads, found);
        }
    }

   private:
    static constexpr std::int32_t nobody = -1, no_late = -2;  // no index
    static constexpr std::int32_t empty = 0x7fffffff;         // no slot

    __device__ static std::uint32_t multiplier_of(int round) {
        return 0x9e3779b9U + static_cast<std::uint32_t>(round) * 0x3c6ef372U;  // odd
    }
    __device__ static std::uint32_t hash_of(std::int32_t index, std::uint32_t multiplier, int hash_bits) {
        return static_cast<std::uint32_t>(index) * multiplier >> (32 - hash_bits);
    }
    // Four late ones, of which some have the index of one of this thread's slots, or are one.
    __device__ static void meet(Table& table, const Mine& mine, int thread, int n) {
#pragma unroll 1
        for (const int end = n + 4; n < end; ++n) {
            const std::int32_t index = table.late[n / 4].at[n % 4];
            std::uint32_t like = 0;
#pragma unroll
            for (int j = 0; j < each; ++j)
                if (mine.index[j] == index) like |= 1U << j;
            for (; like != 0; like &= like - 1) {
                const int slot = thread + (__ffs(static_cast<int>(like)) - 1) * threads,
                          other = table.slot_of_late[n];
                const int higher = max(slot, other);
                if (slot != other) atomicOr(&table.twice[higher / 32], 1U << higher % 32);
            }
        }
    }
    // open: a bit a slot of this thread that is in range. Returns those that are the first of their index.
    __device__ static std::uint32_t find_in_rounds(Table& table, const std::int32_t* row, std::uint32_t open,
                                                   int thread, int barrier) {
        std::uint32_t first = 0;
        for (int i = thread; i < words / 4; i += threads) table.four[i] = {{empty, empty, empty, empty}};
        barrier_sync(barrier, threads);
        for (int round = 0;; ++round) {
            const int below = 2 * most * round;  // a round's entries are lower than all before
            const auto place = [&](int slot) -> std::int32_t& {
                return table.place(hash_of(row[slot], multiplier_of(round), bits_of_place));
            };
            for (std::uint32_t left = open; left != 0; left &= left - 1) {
                const int slot = thread + (__ffs(static_cast<int>(left)) - 1) * threads;
                atomicMin(&place(slot), slot - below);
            }
            barrier_sync(barrier, threads);
            for (std::uint32_t left = open; left != 0; left &= left - 1) {
                const int j = __ffs(static_cast<int>(left)) - 1, slot = thread + j * threads;
                const int there = place(slot) + below;
                if (there == slot) first |= 1U << j;
                if (row[there] == row[slot]) open &= ~(1U << j);
            }
            if (open != 0) atomicMax(&table.rounds, round + 1);
            barrier_sync(barrier, threads);
            if (table.rounds <= round) return first;
        }
    }
};

}  // namespace dsa
