// A query's candidates: appended by a warp, cut to the k best by the whole block.
#pragma once

#include "optimized/indexer_top_k/op.h"
#include "optimized/top_k/row.cuh"

namespace dsa {

// What a block remembers of a query between tiles, in shared memory.
struct Kept {
    std::uint32_t count;
    std::uint32_t threshold;  // a key must be above it; 0 lies below every key
    std::int32_t first_nan;
};

__device__ inline Kept none_kept() { return {0, 0, no_position}; }

struct ListOfCandidates {
    const Candidate* of;
    std::uint32_t count;

    __device__ std::int64_t size() const { return count; }
    __device__ Candidate candidate(std::int64_t i) const { return of[i]; }
};

// One warp appends the candidates among scores[0 .. count), whose first is at position `first`, in their order. There
// is room for all of them.
__device__ inline void append(Candidate* candidates, Kept& kept, const float* scores, int count, std::int64_t first) {
    std::uint32_t slot = kept.count;
    std::int32_t first_nan = no_position;
    for (int base = 0; base < count; base += warp_size) {
        const int i = base + lane_id();
        const float score = i < count ? scores[i] : 0.0F;
        const std::uint32_t key = key_of(score);
        const bool passes = i < count && key > kept.threshold;
        if (i < count && is_nan(score)) first_nan = min(first_nan, static_cast<std::int32_t>(first + i));
        const std::uint32_t votes = __ballot_sync(all_lanes, passes);
        const std::uint32_t before = votes & ((1U << lane_id()) - 1);
        if (passes) candidates[slot + __popc(before)] = {key, static_cast<std::int32_t>(first + i)};
        slot += __popc(votes);
    }
#pragma unroll
    for (int flip = warp_size / 2; flip > 0; flip /= 2)
        first_nan = min(first_nan, __shfl_xor_sync(all_lanes, first_nan, flip));
    __syncwarp();  // a shuffle brings lanes together, but orders no memory: all have read `kept`
    if (lane_id() == 0) {
        kept.count = slot;
        kept.first_nan = min(kept.first_nan, first_nan);
    }
    __syncwarp();
}

// More than k candidates become the k best, in place and in order. All threads come.
template <int digit_bits>
__device__ void keep_best(SelectShared<digit_bits>& memory, Candidate* candidates, Kept& kept, std::uint32_t k) {
    const ListOfCandidates list{candidates, kept.count};
    const Search kth = kth_best(memory, list, k);
    put_best(memory.sums, list, kth, [&](std::uint32_t slot, Candidate best) { candidates[slot] = best; });
    if (threadIdx.x == 0) {
        kept.count = k;
        kept.threshold = kth.prefix;
    }
    __syncthreads();
}

// Before a tile of up to `count` more. All threads come, after a barrier.
template <int digit_bits>
__device__ void make_room(SelectShared<digit_bits>& memory, const IndexerTopK& call, Candidate* candidates,
                          Kept& kept, std::int64_t room, int count) {
    if (kept.count > call.k && kept.count + count > room)
        keep_best(memory, candidates, kept, static_cast<std::uint32_t>(call.k));
}

// The row of indices. All threads come, after a barrier.
template <int digit_bits>
__device__ void write_row(SelectShared<digit_bits>& memory, const IndexerTopK& call, std::int64_t t,
                          Candidate* candidates, Kept& kept) {
    std::int32_t* indices = call.indices + t * call.k;
    if (kept.first_nan != no_position && !call.nan_as_minus_infinity)
        return tell_nan(indices, call.k, kept.first_nan);
    if (kept.count > call.k) keep_best(memory, candidates, kept, static_cast<std::uint32_t>(call.k));
    for (std::int64_t i = threadIdx.x; i < kept.count; i += blockDim.x) indices[i] = candidates[i].position;
    leave_unused(indices, kept.count, call.k);
}

}  // namespace dsa
