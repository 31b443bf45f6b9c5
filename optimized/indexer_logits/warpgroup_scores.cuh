// How one warpgroup scores 64 keys for some queries with wgmma. Keys are the rows of the product (M), the queries'
// heads its columns (N). A thread takes ReLU of the dots that it holds, weighs and adds them in its registers. With
// columns by query these are, of 2 keys, every fourth pair of heads of each query, and the 4 threads of a key share
// out what they join, each ending with other scores; with columns by lane they are all heads of the queries that it
// ends with.
//
// The sums of e4m3 products are Hopper's: fp8_sums of docs/09-conventions.md.
#pragma once

#include "optimized/hopper/wgmma.h"
#include "optimized/indexer_logits/rows.cuh"

namespace dsa {

struct Seen {
    int begin, end;  // of keys
};

// In which order the queries' heads are the product's columns. Of every eight columns a thread has the two that begin
// at 2 (lane % 4).
enum class Columns {
    by_query,  // heads of query 0, of query 1, ...: a thread has every fourth pair of each query's heads
    by_lane,   // pair 0 of heads of queries 0 to 3, pair 1 of them, ...: a thread has all heads of every fourth query
};

// queries: at once, by one warpgroup. heads: of a query, filled up with zeros to a multiple of 8; both powers of 2.
template <int heads_, int row_bytes_, int queries_, Columns order_ = Columns::by_query>
struct Scores {
    static constexpr Columns order = order_;
    static constexpr int keys = 64;
    static constexpr int heads = heads_, row_bytes = row_bytes_, queries = queries_;
    static constexpr int columns = heads * queries;
    static constexpr int dots = columns / 2;  // a thread's
    static constexpr int weights = columns / 4;
    static constexpr int sums = 2 * queries;                // a thread's by query, before the 4 of a key join them
    static constexpr int scores = sums < 4 ? 1 : sums / 4;  // a thread's
    static constexpr Swizzle swizzle = row_bytes == 128 ? Swizzle::bytes_128 : Swizzle::bytes_64;
    static_assert(row_bytes == 64 || row_bytes == 128, "heads of 64 or 128 e4m3 numbers");
    static_assert(columns <= 256, "wgmma has at most 256 columns");
    static_assert(order == Columns::by_query || queries % 4 == 0, "each of 4 lanes has a query");

    // Which score a thread's number i is: of the tile's key `row` and the queries' `query`. With one query two
    // threads have the same score, and the first of them counts.
    __device__ static int sum_of(int i) { return sums < 4 ? lane_id() % sums : 4 * i + lane_id() % 4; }
    __device__ static int query(int i) { return sum_of(i) % queries; }
    __device__ static int row(int i) { return warp_id() % 4 * 16 + lane_id() / 4 + sum_of(i) / queries * 8; }
    __device__ static bool counts() { return sums >= 4 || lane_id() % 4 < sums; }
};

// What ReLU costs beside the FFMA that weighs and adds. Both let NaN through, which a maximum would not.
enum class Relu {
    by_absolute,   // (x + |x|) / 2: an FADD; the 1/2 is in the weights
    by_predicate,  // the FFMA is not done where x <= 0: a comparison, which writes a predicate and no register
};

// The weights of the columns that a thread holds, of queries t_0 ... before t_end, times `factor`; 0 where there is
// no head.
template <class S, class Problem>
__device__ void bring_weights(float (&weights)[S::weights], const Problem& problem, int t_0, int t_end,
                              float factor) {
    if constexpr (S::order == Columns::by_lane) {
#pragma unroll
        for (int fourth = 0; fourth < S::queries / 4; ++fourth) {
            const int t = t_0 + 4 * fourth + lane_id() % 4;
            const float* from = problem.weights(t < t_end ? t : t_0);
#pragma unroll
            for (int head = 0; head < S::heads; ++head)
                weights[fourth * S::heads + head] = t < t_end && head < problem.H_I() ? factor * from[head] : 0.0F;
        }
        return;
    }
    constexpr int steps = S::heads / 8;
    const int first = lane_id() % 4 * 2;
#pragma unroll
    for (int query = 0; query < S::queries; ++query) {
        const bool is_there = t_0 + query < t_end;
        const float* from = problem.weights(is_there ? t_0 + query : t_0) + first;
#pragma unroll
        for (int i = 0; i < 2 * steps; ++i) {
            const int head = i / 2 * 8 + i % 2;
            weights[query * 2 * steps + i] = is_there && first + head < problem.H_I() ? factor * from[head] : 0.0F;
        }
    }
}

// Begins dots [keys, columns] = keys [64, row_bytes] queries [columns, row_bytes]^T, both swizzled in shared memory.
// The caller waits for it: wgmma_wait, hold(dots).
template <class S>
__device__ void begin_dots(float (&dots)[S::dots], const void* keys, const void* queries) {
    const Descriptor a = k_major(keys, S::swizzle), b = k_major(queries, S::swizzle);
    hold(dots);
    wgmma_fence();
#pragma unroll
    for (int at = 0; at < S::row_bytes; at += 32) wgmma<e4m3>(dots, advanced(a, at), advanced(b, at), at > 0);
    wgmma_commit();
}

// Lanes that differ in the bit `flip` join their numbers: of each pair one keeps and adds the one, one the other; a
// single number they both get.
template <int n>
__device__ void join(float (&v)[n], int flip) {
    if constexpr (n == 1) {
        v[0] += __shfl_xor_sync(all_lanes, v[0], flip);
    } else {
        const bool upper = (lane_id() & flip) != 0;
#pragma unroll
        for (int i = 0; i < n / 2; ++i) {
            const float mine = upper ? v[2 * i + 1] : v[2 * i], others = upper ? v[2 * i] : v[2 * i + 1];
            v[i] = mine + __shfl_xor_sync(all_lanes, others, flip);
        }
    }
}

template <Relu relu>
__device__ void add_weighed(float& sum, float weight, float dot) {
    if constexpr (relu == Relu::by_absolute)
        sum = fmaf(weight, dot + fabsf(dot), sum);
    else if (!(dot <= 0.0F))
        sum = fmaf(weight, dot, sum);
}

// A thread's sums of its own queries' heads, even and odd ones apart, so that no addition waits for the one before
// it.
template <class S, Relu relu>
__device__ void own_head_sums(float (&scores)[S::scores], const float (&dots)[S::dots],
                              const float (&weights)[S::weights]) {
    float sums[S::scores][2] = {};  // [key, query] [of a pair]
#pragma unroll
    for (int pair = 0; pair < S::heads / 2; ++pair)
#pragma unroll
        for (int of_pair = 0; of_pair < 2; ++of_pair)
#pragma unroll
            for (int i = 0; i < S::scores; ++i) {
                const int key = i / (S::queries / 4), j = i % (S::queries / 4) * S::heads / 2 + pair;
                add_weighed<relu>(sums[i][of_pair], weights[2 * j + of_pair], dots[4 * j + 2 * key + of_pair]);
            }
#pragma unroll
    for (int i = 0; i < S::scores; ++i) scores[i] = sums[i][0] + sums[i][1];
}

// sum_j w_j ReLU(dot_j), of key S::row and query S::query. by_absolute wants half the weights.
template <class S, Relu relu>
__device__ void head_sums(float (&scores)[S::scores], const float (&dots)[S::dots],
                          const float (&weights)[S::weights]) {
    if constexpr (S::order == Columns::by_lane) return own_head_sums<S, relu>(scores, dots, weights);
    float sums[S::sums] = {};  // [key, query]
    constexpr int steps = S::heads / 8;
    // The next addend of a sum comes after those of all others, so that no addition waits for the one before it.
#pragma unroll
    for (int step = 0; step < steps; ++step)
#pragma unroll
        for (int of_pair = 0; of_pair < 2; ++of_pair)
#pragma unroll
            for (int query = 0; query < S::queries; ++query)
#pragma unroll
                for (int key = 0; key < 2; ++key) {
                    const int j = query * steps + step;
                    add_weighed<relu>(sums[key * S::queries + query], weights[2 * j + of_pair],
                                      dots[4 * j + 2 * key + of_pair]);
                }
    join(sums, 1);
    float half[S::sums / 2];
#pragma unroll
    for (int i = 0; i < S::sums / 2; ++i) half[i] = sums[i];
    join(half, 2);
#pragma unroll
    for (int i = 0; i < S::scores; ++i) scores[i] = half[i];
}

}  // namespace dsa
