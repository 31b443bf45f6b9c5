// The kernel of indexer_logits and indexer_logits_paged on score_ring.cuh: scores go to the logits as they are made,
// and the warps that have nothing else to do write -inf where no tile lies.
#pragma once

#include <algorithm>

#include "optimized/indexer_logits/score_ring.cuh"
#include "optimized/support/launch.h"
#include "optimized/support/multiprocessors.h"

namespace dsa {

template <class S, class Problem>
struct WriteLogits {
    // A thread's scores: of `a_key` queries, every fourth, and then of the key 8 further.
    static constexpr int a_key = S::queries < 4 ? 1 : S::queries / 4;

    const Problem& problem;
    int t_0 = 0, t_end = 0;
    Seen by_all = {};       // every one of the queries sees these keys
    float* mine = nullptr;  // where score 0 of key 0 goes

    // There is nothing to do in between.
    __device__ int begin(int first, int beyond) {
        t_0 = first;
        t_end = beyond;
        mine = problem.logits(t_0 + S::query(0)) + S::row(0);
        by_all = {0, t_end - t_0 == S::queries ? 0x7fffffff : 0};
#pragma unroll 4
        for (int t = t_0; t < t_end; ++t) {
            const Seen seen = problem.seen(t);
            by_all = {max(by_all.begin, seen.begin), min(by_all.end, seen.end)};
        }
        return 0x7fffffff;
    }
    __device__ void operator()(int s_0, const float (&scores)[S::scores]) const {
        if (!S::counts()) return;
        const bool inside = s_0 >= by_all.begin && s_0 + S::keys <= by_all.end;
        float* tile = mine + s_0;
        if (inside) {
#pragma unroll
            for (int i = 0; i < S::scores; ++i) tile[place(i)] = scores[i];
        } else {
#pragma unroll
            for (int i = 0; i < S::scores; ++i)
                if (exists(i, s_0)) tile[place(i)] = sees(i, s_0) ? scores[i] : minus_infinity();
        }
    }
    __device__ int rest() const { return 0x7fffffff; }
    __device__ void end() const {}
    __device__ std::int64_t place(int i) const { return i % a_key * 4 * problem.S() + i / a_key * 8; }
    __device__ bool exists(int i, int s_0) const {
        return t_0 + S::query(i) < t_end && s_0 + S::row(i) < problem.S();
    }
    __device__ bool sees(int i, int s_0) const {
        const Seen seen = problem.seen(t_0 + S::query(i));
        return s_0 + S::row(i) >= seen.begin && s_0 + S::row(i) < seen.end;
    }
};

// -inf to the keys that lie in no tile of a query's group. `thread` of `threads`; blocks share the rows.
template <class S, class Problem>
__device__ void write_outside(const Problem& problem, int thread, int threads) {
    for (int group = static_cast<int>(blockIdx.x); group < problem.groups(); group += static_cast<int>(gridDim.x)) {
        const Tiles tiles = tiles_of<S>(problem, group);
        for (std::int64_t t = problem.first_query(group); t < problem.last_query(group); ++t) {
            float* logits = problem.logits(t);
            for (int s = thread; s < tiles.begin * S::keys; s += threads) logits[s] = minus_infinity();
            for (int s = tiles.end * S::keys + thread; s < problem.S(); s += threads) logits[s] = minus_infinity();
        }
    }
}

constexpr int producer_registers = 40, consumer_registers = 232;

template <class S, Relu relu, class Problem>
__global__ void __launch_bounds__(ring_threads, 1) logits_ring(__grid_constant__ const Problem problem) {
    auto& memory = shared<RingMemory<S, Problem::consumers_share_keys>>();
    begin_ring<S>(memory, problem);
    const int warpgroup = uniform_warpgroup();
    if (warpgroup == 0) {
        give_back_registers<producer_registers>();
        if (warp_id() == 0 && elect_one()) produce<S>(memory, problem);
        if (warp_id() > 0) write_outside<S>(problem, static_cast<int>(threadIdx.x) - warp_size, 3 * warp_size);
        __syncwarp();
    } else {
        take_registers<consumer_registers>();
        WriteLogits<S, Problem> take{problem};
        consume<S, relu>(memory, problem, warpgroup - 1, take);
    }
}

template <class S, Relu relu, class Problem>
void start_logits_ring(const Problem& problem, std::int64_t groups, std::int64_t columns, Stream stream) {
    launch("logits_ring", logits_ring<S, relu, Problem>,
           {.blocks = std::min<std::int64_t>(multiprocessors, groups * blocks_for(columns, S::keys)),
            .threads = ring_threads,
            .shared_bytes = sizeof(RingMemory<S, Problem::consumers_share_keys>),
            .stream = stream},
           problem);
}

}  // namespace dsa
