// A block that scores keys for queries as long as there is work: one warp brings tiles of 64 keys by tensor copies
// into a ring of stages, and the queries of the next group beside those of this one; two warpgroups, the consumers,
// score (warpgroup_scores.cuh) and give what they find to `take`, in registers.
//
//     full[s]            the producer's arrival and the bytes of stage s
//     empty[s]           one arrival a warp of each consumer that reads stage s
//     queries_full[i]    the same of the queries
//     queries_empty[i]   one arrival a consumer warp
//
// Problem is what rows.cuh and pages.cuh describe, and further
//     seen(t)                         the keys that query t sees, within [0, S)
//     groups()                        how many; those of a group see the same keys, or nearly
//     consumers_share_keys            each consumer takes every tile, with its own queries of the group; else every
//                                     second tile, with the same queries
//     bring_queries(to, group, full)  S::columns rows for each consumer, or for both
//     bring_keys(keys, scales, group, tile, full)
#pragma once

#include <cstdint>

#include "optimized/hopper/registers.h"
#include "optimized/hopper/ring.h"
#include "optimized/hopper/tma.h"
#include "optimized/hopper/warp.h"
#include "optimized/indexer_logits/warpgroup_scores.cuh"

namespace dsa {

inline constexpr int consumers = 2;
inline constexpr int ring_threads = 128 * (1 + consumers);

template <class S, bool consumers_share_keys>
struct RingMemory {
    static constexpr int stages = 8;
    static constexpr int query_sets = consumers_share_keys ? consumers : 1;
    alignas(1024) unsigned char keys[stages][S::keys * S::row_bytes];               // swizzled
    alignas(1024) unsigned char queries[2][query_sets][S::columns * S::row_bytes];  // swizzled
    alignas(128) float k_scale[stages][S::keys];
    Mbarrier full[stages], empty[stages], queries_full[2], queries_empty[2];
    std::int64_t of_warp[ring_threads / warp_size];
    int first_group, first_tile;  // this block's share
    std::int64_t tiles;
};

// Lane 0's, so that the compiler sees that all lanes agree, and keeps in uniform registers what follows from it: the
// products' descriptors.
__device__ inline int uniform_warpgroup() { return __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / 128, 0); }

struct Tiles {
    int begin, end;
};

// The tiles of keys that any query of a group sees.
template <class S, class Problem>
__device__ Tiles tiles_of(const Problem& problem, int group) {
    int begin = 0x7fffffff, end = 0;
    const int last = static_cast<int>(problem.last_query(group));
#pragma unroll 4
    for (int t = static_cast<int>(problem.first_query(group)); t < last; ++t) {
        const Seen range = problem.seen(t);
        if (range.begin >= range.end) continue;
        begin = min(begin, range.begin);
        end = max(end, range.end);
    }
    if (begin >= end) return {0, 0};
    return {begin / S::keys, (end + S::keys - 1) / S::keys};
}

// A run of tiles of one group.
struct Run {
    int group, begin, end;
};

// All tiles of all groups, one after another, are dealt out to the blocks in equal runs: longer rows are no reason to
// wait for anybody. Producer and consumers walk through the block's share each for itself.
template <class S, class Memory, class Problem>
__device__ void deal_out(Memory& memory, const Problem& problem) {
    const int each = (problem.groups() + ring_threads - 1) / ring_threads;
    const int first = min(problem.groups(), static_cast<int>(threadIdx.x) * each);
    const int last = min(problem.groups(), first + each);
    std::int64_t mine = 0;
    for (int group = first; group < last; ++group) {
        const Tiles tiles = tiles_of<S>(problem, group);
        mine += tiles.end - tiles.begin;
    }
    std::int64_t up_to = mine;  // and with this thread's
    for (int delta = 1; delta < warp_size; delta *= 2) {
        const std::int64_t other = __shfl_up_sync(all_lanes, up_to, delta);
        if (lane_id() >= delta) up_to += other;
    }
    if (lane_id() == warp_size - 1) memory.of_warp[warp_id()] = up_to;
    if (threadIdx.x == 0) memory.first_group = memory.first_tile = 0, memory.tiles = 0;
    __syncthreads();
    std::int64_t total = 0;
    for (int w = 0; w < ring_threads / warp_size; ++w) {
        if (w == warp_id()) up_to += total;
        total += memory.of_warp[w];
    }
    const std::int64_t begin = total * blockIdx.x / gridDim.x, end = total * (blockIdx.x + 1) / gridDim.x;
    std::int64_t at = up_to - mine;
    if (begin < end && at <= begin && begin < up_to)
        for (int group = first; group < last; ++group) {
            const Tiles tiles = tiles_of<S>(problem, group);
            if (begin < at + tiles.end - tiles.begin) {
                memory.first_group = group;
                memory.first_tile = tiles.begin + static_cast<int>(begin - at);
                memory.tiles = end - begin;
                break;
            }
            at += tiles.end - tiles.begin;
        }
    __syncthreads();
}

template <class S>
class Walk {
   public:
    template <class Memory>
    __device__ explicit Walk(const Memory& memory)
        : group_(memory.first_group), tile_(memory.first_tile), left_(memory.tiles) {}
    // The next run, if there is one.
    template <class Problem>
    __device__ bool next(const Problem& problem, Run& run) {
        while (left_ > 0) {
            const Tiles tiles = tiles_of<S>(problem, group_);
            run.group = group_++;
            run.begin = tile_ >= 0 ? tile_ : tiles.begin;
            run.end = static_cast<int>(min(std::int64_t{tiles.end}, run.begin + left_));
            tile_ = -1;
            left_ -= run.end - run.begin;
            if (run.begin < run.end) return true;
        }
        return false;
    }

   private:
    int group_, tile_;
    std::int64_t left_;
};

// All threads of the block.
template <class S, class Memory, class Problem>
__device__ void begin_ring(Memory& memory, const Problem& problem) {
    if (threadIdx.x == 0) {
        for (int s = 0; s < Memory::stages; ++s) {
            mbarrier_init(memory.full[s], 1);
            mbarrier_init(memory.empty[s], Problem::consumers_share_keys ? 4 * consumers : 4);
        }
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(memory.queries_full[i], 1);
            mbarrier_init(memory.queries_empty[i], 4 * consumers);
        }
        fence_mbarrier_init();
    }
    deal_out<S>(memory, problem);
}

// One lane of one warp.
template <class S, class Memory, class Problem>
__device__ void produce(Memory& memory, const Problem& problem) {
    RingTurn<Memory::stages> turn;
    RingTurn<2> set;
    Walk<S> walk(memory);
    for (Run run; walk.next(problem, run); set.next()) {
        mbarrier_wait_in_block(memory.queries_empty[set.stage], set.parity ^ 1);
        mbarrier_arrive_expect(memory.queries_full[set.stage], static_cast<int>(sizeof memory.queries[0]));
        for (int q = 0; q < Memory::query_sets; ++q)
            problem.bring_queries(memory.queries[set.stage][q], run.group, q, memory.queries_full[set.stage]);
        for (int tile = run.begin; tile < run.end; ++tile, turn.next()) {
            Mbarrier& full = memory.full[turn.stage];
            mbarrier_wait_in_block(memory.empty[turn.stage], turn.parity ^ 1);
            mbarrier_arrive_expect(full, static_cast<int>(sizeof memory.keys[0] + sizeof memory.k_scale[0]));
            problem.bring_keys(memory.keys[turn.stage], memory.k_scale[turn.stage], run.group, tile, full);
        }
    }
}

__device__ inline void release(Mbarrier& empty) {
    __syncwarp();
    if (lane_id() == 0) mbarrier_arrive(empty);
}

// One warpgroup. take.begin(t_0, t_end): from now on these queries; take(s_0, scores): of the 64 keys from s_0 on;
// take.rest(): after as many tiles as begin or the last rest said; take.end(): the run is over.
template <class S, Relu relu, class Memory, class Problem, class Take>
__device__ void consume(Memory& memory, const Problem& problem, int consumer, Take& take) {
    constexpr bool share_keys = Problem::consumers_share_keys;
    float dots[S::dots];
    float weights[S::weights];
    RingTurn<Memory::stages> turn;
    RingTurn<2> set;
    Walk<S> walk(memory);
    int number = 0;  // of the block's tiles
    for (Run run; walk.next(problem, run); set.next()) {
        const int last = static_cast<int>(problem.last_query(run.group));
        const int t_0 =
            min(last, static_cast<int>(problem.first_query(run.group)) + (share_keys ? consumer * S::queries : 0));
        const int t_end = min(last, t_0 + S::queries);
        bring_weights<S>(weights, problem, t_0, t_end, relu == Relu::by_absolute ? 0.5F : 1.0F);
        int stretch = take.begin(t_0, t_end);
        mbarrier_wait_in_block(memory.queries_full[set.stage], set.parity);
        const void* queries = memory.queries[set.stage][share_keys ? consumer : 0];
        // What is done now and then stands outside of the innermost loop: its registers are all taken.
        for (int tile = run.begin; tile < run.end;) {
            const int until = run.end - tile <= stretch ? run.end : tile + stretch;
            for (; tile < until; ++tile, turn.next()) {
                if (!share_keys && number++ % consumers != consumer) continue;
                mbarrier_wait_in_block(memory.full[turn.stage], turn.parity);
                begin_dots<S>(dots, memory.keys[turn.stage], queries);
                float scales[S::scores];
#pragma unroll
                for (int i = 0; i < S::scores; ++i) scales[i] = memory.k_scale[turn.stage][S::row(i)];
                wgmma_wait<0>();
                hold(dots);
                release(memory.empty[turn.stage]);
                float scores[S::scores];
                head_sums<S, relu>(scores, dots, weights);
#pragma unroll
                for (int i = 0; i < S::scores; ++i) scores[i] = problem.score(scores[i], scales[i]);
                take(tile * S::keys, scores);
            }
            if (tile < run.end) stretch = take.rest();
        }
        release(memory.queries_empty[set.stage]);
        take.end();
    }
}

}  // namespace dsa
