// Queries and keys row after row, as a scoring kernel asks for them. Its counterpart for pages is in
// indexer_logits_paged/pages.cuh; both answer the same questions. Queries come in groups that see the same keys.
#pragma once

#include "optimized/hopper/numbers.h"
#include "optimized/indexer_logits/op.h"

namespace dsa {

struct Range {
    std::int64_t begin, end;  // of keys
};
__device__ inline float minus_infinity() { return __uint_as_float(0xff800000U); }

template <class T>
struct RowsOfKeys {
    using Number = T;
    const T* q;
    const T* k;
    IndexerLogits call;
    int queries_at_once;

    __device__ int H_I() const { return call.H_I; }
    __device__ int D_I() const { return call.D_I; }
    __device__ std::int64_t S() const { return call.S; }
    __device__ std::int64_t first_query(std::int64_t group) const { return group * queries_at_once; }
    __device__ std::int64_t last_query(std::int64_t group) const {
        return min(call.T, (group + 1) * queries_at_once);  // one beyond
    }
    __device__ Range range(std::int64_t t) const {
        return {max(std::int64_t{call.start[t]}, std::int64_t{0}), min(std::int64_t{call.end[t]}, call.S)};
    }
    // Key s, [D_I], for the queries of a group; null where there is none.
    __device__ const T* key(std::int64_t /*group*/, std::int64_t s) const { return k + s * call.D_I; }
    __device__ float key_scale(std::int64_t /*group*/, std::int64_t s) const { return call.k_scale[s]; }
    __device__ const T* query(std::int64_t t) const { return q + t * call.H_I * call.D_I; }  // [H_I, D_I]
    __device__ const float* weights(std::int64_t t) const { return call.weights + t * call.H_I; }
    __device__ float score(float head_sum, float key_scale) const {
        return call.bf16_scores ? through_bf16(head_sum * key_scale) : head_sum * key_scale;
    }
    __device__ float* logits(std::int64_t t) const { return call.logits + t * call.S; }  // [S]
};

inline RowsOfKeys<e4m3> rows_of_e4m3(const IndexerLogits& call, int queries_at_once) {
    return {call.q, call.k, call, queries_at_once};
}
inline RowsOfKeys<bf16> rows_of_bf16(const IndexerLogits& call, int queries_at_once) {
    return {call.q_bf16, call.k_bf16, call, queries_at_once};
}

}  // namespace dsa
