// Keys in pages, and a request's queries as a group, as a scoring kernel asks for them: indexer_logits/rows.cuh.
#pragma once

#include "optimized/indexer_logits/rows.cuh"
#include "optimized/indexer_logits_paged/op.h"

namespace dsa {

inline constexpr int page_tokens = 64;

struct PagesOfKeys {
    using Number = e4m3;
    IndexerLogitsPaged call;

    __device__ int H_I() const { return call.H_I; }
    __device__ int D_I() const { return call.D_I; }
    __device__ std::int64_t S() const { return call.P * page_tokens; }
    __device__ std::int64_t first_query(std::int64_t b) const { return b * call.s_q; }
    __device__ std::int64_t last_query(std::int64_t b) const { return (b + 1) * call.s_q; }
    __device__ std::int64_t length(std::int64_t b) const { return min(std::int64_t{call.context_lens[b]}, S()); }
    __device__ Range range(std::int64_t t) const { return {0, length(t / call.s_q) - call.s_q + 1 + t % call.s_q}; }
    // The page of token s; null where the table names none.
    __device__ const std::uint8_t* page(std::int64_t b, std::int64_t s) const {
        const std::int64_t number = call.block_table[b * call.P + s / page_tokens];
        if (number < 0 || number >= call.pages) return nullptr;
        return call.k_pages + number * page_tokens * (call.D_I + static_cast<int>(sizeof(float)));
    }
    __device__ const e4m3* key(std::int64_t b, std::int64_t s) const {
        if (s >= length(b)) return nullptr;
        const std::uint8_t* from = page(b, s);
        return from == nullptr ? nullptr : reinterpret_cast<const e4m3*>(from) + s % page_tokens * call.D_I;
    }
    __device__ float key_scale(std::int64_t b, std::int64_t s) const {
        const std::uint8_t* from = page(b, s);
        if (from == nullptr) return __uint_as_float(0x7fffffffU);
        return reinterpret_cast<const float*>(from + page_tokens * call.D_I)[s % page_tokens];
    }
    __device__ const e4m3* query(std::int64_t t) const { return call.q + t * call.H_I * call.D_I; }
    __device__ const float* weights(std::int64_t t) const { return call.weights + t * call.H_I; }
    __device__ float score(float head_sum, float key_scale) const {
        return call.bf16_scores ? through_bf16(head_sum * key_scale) : head_sum * key_scale;
    }
    __device__ float* logits(std::int64_t t) const { return call.logits + t * S(); }
};

}  // namespace dsa
