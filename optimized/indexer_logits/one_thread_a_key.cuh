// One thread scores one key for one query. The query's heads come to shared memory, as many at once as fit.
#pragma once

#include "optimized/indexer_logits/rows.cuh"

namespace dsa {

struct QueryInShared {
    static constexpr int numbers = 4096;
    float q[numbers];  // [heads at once, D_I]
};

// sum_j w_j ReLU(q_j . key). All threads of the block come; a null key adds nothing. NaN stays NaN.
template <class Problem>
__device__ float head_sum(QueryInShared& memory, const Problem& problem, std::int64_t t,
                          const typename Problem::Number* key) {
    const int D_I = problem.D_I();
    const int at_once = QueryInShared::numbers / D_I;
    float sum = 0.0F;
    for (int first = 0; first < problem.H_I(); first += at_once) {
        const int heads = min(at_once, problem.H_I() - first);
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < heads * D_I; i += static_cast<int>(blockDim.x))
            memory.q[i] = to_float(problem.query(t)[std::int64_t{first} * D_I + i]);
        __syncthreads();
        for (int j = 0; j < heads && key != nullptr; ++j) {
            float dot = 0.0F;
            for (int d = 0; d < D_I; ++d) dot += memory.q[j * D_I + d] * to_float(key[d]);
            sum += problem.weights(t)[first + j] * (dot < 0.0F ? 0.0F : dot);
        }
    }
    return sum;
}

constexpr int keys_of_a_block = 128;

// Block x = query of the group x number of tiles + tile; block y = group.
template <class Problem>
__global__ void __launch_bounds__(keys_of_a_block)
    logits_one_thread_a_key(__grid_constant__ const Problem problem, std::int64_t tiles) {
    QueryInShared& memory = shared<QueryInShared>();
    const std::int64_t group = blockIdx.x / tiles;
    const std::int64_t s = blockIdx.x % tiles * keys_of_a_block + threadIdx.x;
    for (std::int64_t t = problem.first_query(group); t < problem.last_query(group); ++t) {
        const Range range = problem.range(t);
        const bool is_candidate = s >= range.begin && s < range.end;
        const float sum = head_sum(memory, problem, t, is_candidate ? problem.key(group, s) : nullptr);
        if (s < problem.S())
            problem.logits(t)[s] = is_candidate ? problem.score(sum, problem.key_scale(group, s)) : minus_infinity();
    }
}

}  // namespace dsa
