// RowsOfKeys that tensor copies bring: a group are the queries of both consumers.
#pragma once

#include "optimized/hopper/tma.h"
#include "optimized/indexer_logits/warpgroup_scores.cuh"

namespace dsa {

template <class S>
struct MappedRows : RowsOfKeys<e4m3> {
    static constexpr bool consumers_share_keys = true;
    TensorMap q_map;      // map_of_queries
    TensorMap k_map;      // [S, D_I]
    TensorMap scale_map;  // [S]

    __device__ Seen seen(std::int64_t t) const {
        return {max(call.start[t], 0), min(call.end[t], static_cast<int>(call.S))};
    }
    __device__ int groups() const { return static_cast<int>((call.T + queries_at_once - 1) / queries_at_once); }
    __device__ void bring_queries(void* to, int group, int set, Mbarrier& full) const {
        const int first = static_cast<int>(first_query(group));
        if constexpr (S::order == Columns::by_query) {
            tma_load(to, q_map, {0, 0, first + set * S::queries}, full);
        } else {
            constexpr int box = 4 * S::heads * S::row_bytes;
            for (int i = 0; i < S::queries / 4; ++i)
                tma_load(static_cast<unsigned char*>(to) + i * box, q_map,
                         {0, 0, first + set * S::queries + 4 * i, 0}, full);
        }
    }
    __device__ void bring_keys(void* keys, float* scales, int /*group*/, int tile, Mbarrier& full) const {
        const int s = tile * S::keys;
        tma_load(keys, k_map, {0, s}, full);
        tma_load(scales, scale_map, {s}, full);
    }
};

// Problems whose scores are float32 by their type: a conversion that a predicate keeps from being done costs as if it
// were.
template <class Rows>
struct Float32Scores : Rows {
    __device__ float score(float head_sum, float key_scale) const { return head_sum * key_scale; }
};

// Queries [rows, H_I, D_I], so many at once, their heads filled up with zeros. For columns by lane a box has its
// dimensions in the columns' order: of 4 queries a pair of heads each, then the next pair.
template <class S>
TensorMap map_of_queries(const e4m3* q, std::int64_t rows, int H_I) {
    Tiled how;
    how.address = q;
    if (S::order == Columns::by_lane) {
        constexpr std::uint64_t pair = 2 * S::row_bytes;
        how.rank = 4;
        how.extent[0] = S::row_bytes;
        how.extent[1] = 2;
        how.extent[2] = static_cast<std::uint64_t>(rows);
        how.extent[3] = static_cast<std::uint64_t>(H_I / 2);
        how.stride[1] = S::row_bytes;
        how.stride[2] = how.extent[3] * pair;
        how.stride[3] = pair;
        how.box[0] = S::row_bytes;
        how.box[1] = 2;
        how.box[2] = 4;
        how.box[3] = S::heads / 2;
        how.swizzle = S::swizzle;
        return tensor_map("q", how);
    }
    how.rank = 3;
    how.extent[0] = S::row_bytes;
    how.extent[1] = static_cast<std::uint64_t>(H_I);
    how.extent[2] = static_cast<std::uint64_t>(rows);
    how.stride[1] = S::row_bytes;
    how.stride[2] = static_cast<std::uint64_t>(H_I) * S::row_bytes;
    how.box[0] = S::row_bytes;
    how.box[1] = S::heads;
    how.box[2] = S::queries;
    how.swizzle = S::swizzle;
    return tensor_map("q", how);
}

template <class S>
MappedRows<S> mapped_rows(const IndexerLogits& call) {
    Tiled scales;
    scales.element = Element::float32;
    scales.address = call.k_scale;
    scales.rank = 1;
    scales.extent[0] = static_cast<std::uint64_t>(call.S);
    scales.box[0] = S::keys;
    return {rows_of_e4m3(call, 2 * S::queries), map_of_queries<S>(call.q, call.T, call.H_I),
            matrix_map("k", call.k, call.S, S::row_bytes, S::row_bytes, S::keys, S::row_bytes, S::swizzle),
            tensor_map("k_scale", scales)};
}

}  // namespace dsa
