// Blocks of a cluster that had a part of a query's selection each put their sums together: each warp's columns of o^T
// belong to one of the blocks, and the others send it theirs, under the common maximum. The order of the sums is the
// order of the blocks.
#pragma once

#include "optimized/attention/few_heads.cuh"
#include "optimized/hopper/cluster.h"

namespace dsa::few_heads {

// What a block tells the others of each head, and what follows from all of them.
template <int heads>
struct Ends {
    float reference[heads], sum[heads];
    float factor[heads];    // of this block's sums
    float one_over[heads];  // of the result
};
template <int heads>
using SumsOfWarp = float[columns / 16 * heads / 8 * 4][warp_size];

// All threads of all blocks come to cluster_sync() twice, who only brings rows too. inbox: [blocks, workers /
// blocks].
template <int heads>
struct Combination {
    Ends<heads>& ends;
    SumsOfWarp<heads> (&inbox)[workers];
    const int blocks = cluster_size(), rank = cluster_rank();
    const int each = workers / blocks;   // warps whose columns a block owns
    const int owner = warp_id() / each;  // of this warp's
    const int place_there = warp_id() % each;

    // After the first cluster_sync(), which follows the writing of reference and sum. tell(head, maximum, sum): by
    // one thread a head of each block; gives one_over.
    template <class Tell>
    __device__ void agree(Tell tell) const {
        if (threadIdx.x >= heads) return;
        const auto head = static_cast<int>(threadIdx.x);
        float maximum = minus_infinity(), sum = 0.0F;
        for (int b = 0; b < blocks; ++b) maximum = fmaxf(maximum, of_block(&ends, b)->reference[head]);
        for (int b = 0; b < blocks; ++b) {
            const float reference = of_block(&ends, b)->reference[head];
            const float factor = reference == minus_infinity() ? 0.0F : rescaling(reference, maximum);
            sum += of_block(&ends, b)->sum[head] * factor;
            if (b == rank) ends.factor[head] = factor;
        }
        ends.one_over[head] = tell(head, sum != sum ? sum : maximum, sum);  // NaN is no maximum, and not nothing
    }
    // After workers_meet(). The second cluster_sync() follows.
    __device__ void send(Outputs<heads>& out) const {
        float(*to)[warp_size] = *of_block(&inbox[rank * each + place_there], owner);
        each_element(out, [&](float& element, int at, int head) {
            element *= ends.factor[head];
            if (owner != rank) to[at][lane_id()] = element;
        });
    }
    // The whole sums, where this warp's columns are the block's.
    __device__ bool receive(Outputs<heads>& out) const {
        if (owner != rank) return false;
        each_element(out, [&](float& element, int at, int) {
            float sum = 0.0F;
            for (int b = 0; b < blocks; ++b)
                sum += b == rank ? element : inbox[b * each + place_there][at][lane_id()];
            element = sum;
        });
        return true;
    }

   private:
    template <class Do>
    __device__ static void each_element(Outputs<heads>& out, Do what) {
#pragma unroll
        for (int m = 0; m < columns / 16; ++m)
#pragma unroll
            for (int n = 0; n < heads / 8; ++n)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    what(out.at[m][n][i], (m * heads / 8 + n) * 4 + i, 8 * n + 2 * place() + i % 2);
    }
};

}  // namespace dsa::few_heads
