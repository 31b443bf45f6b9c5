// PagesOfKeys that tensor copies bring: a tile is a page. Where the table names none, the page's number lies outside
// of the tensor maps: keys come as zeros and scales as NaN, and nothing is read.
#pragma once

#include "optimized/hopper/tma.h"
#include "optimized/indexer_logits/mapped_rows.cuh"
#include "optimized/indexer_logits_paged/pages.cuh"

namespace dsa {

template <class S>
struct MappedPages : PagesOfKeys {
    static constexpr bool consumers_share_keys = false;  // a request's few queries are one consumer's
    TensorMap q_map;                                     // [B s_q, H_I, D_I]
    TensorMap k_map;                                     // [pages, 64, D_I]
    TensorMap scale_map;                                 // [pages, page_bytes / 4] of float32

    __device__ Seen seen(std::int64_t t) const { return {0, static_cast<int>(range(t).end)}; }
    __device__ int groups() const { return static_cast<int>(call.B); }
    __device__ void bring_queries(void* to, int b, int /*set*/, Mbarrier& full) const {
        tma_load(to, q_map, {0, 0, static_cast<int>(first_query(b))}, full);
    }
    __device__ void bring_keys(void* keys, float* scales, int b, int tile, Mbarrier& full) const {
        const int page = call.block_table[b * call.P + tile];
        tma_load(keys, k_map, {0, 0, page}, full);
        tma_load(scales, scale_map, {S::keys * S::row_bytes / 4, page}, full);
    }
};

template <class S>
MappedPages<S> mapped_pages(const IndexerLogitsPaged& call) {
    static_assert(S::keys == page_tokens, "a tile is a page");
    const auto page_bytes = static_cast<std::uint64_t>(page_tokens) * (S::row_bytes + sizeof(float));
    Tiled keys;
    keys.address = call.k_pages;
    keys.rank = 3;
    keys.extent[0] = S::row_bytes;
    keys.extent[1] = page_tokens;
    keys.extent[2] = static_cast<std::uint64_t>(call.pages);
    keys.stride[1] = S::row_bytes;
    keys.stride[2] = page_bytes;
    keys.box[0] = S::row_bytes;
    keys.box[1] = page_tokens;
    keys.box[2] = 1;
    keys.swizzle = S::swizzle;
    Tiled scales;
    scales.element = Element::float32;
    scales.address = call.k_pages;
    scales.rank = 2;
    scales.extent[0] = page_bytes / sizeof(float);
    scales.extent[1] = static_cast<std::uint64_t>(call.pages);
    scales.stride[1] = page_bytes;
    scales.box[0] = page_tokens;
    scales.box[1] = 1;
    scales.nan_outside = true;
    return {{call},
            map_of_queries<S>(call.q, call.B * call.s_q, call.H_I),
            tensor_map("k_pages", keys),
            tensor_map("k_pages", scales)};
}

}  // namespace dsa
