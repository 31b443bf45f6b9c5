// What levels 3, 4 and 6 take, and the kernel for each number of heads.
#pragma once

#include "optimized/indexer_logits/mapped_rows.cuh"
#include "optimized/indexer_logits/write_logits.cuh"

namespace dsa {

// Calls of the indexer that wgmma can be asked for.
inline std::string wgmma_declines(bool hopper_sums, bool is_e4m3, int H_I, int D_I) {
    if (!is_e4m3) return "keys must be e4m3; they are bf16";
    if (!hopper_sums)
        return "wgmma adds e4m3 products with fewer bits than float32; the convention fp8_sums must be hopper, it is "
               "float32";
    if (D_I != 64 && D_I != 128) return sentence("heads must be of 64 or 128 numbers; D_I is ", D_I);
    if (H_I > 64) return sentence("at most 64 heads; H_I is ", H_I);
    return {};
}

inline std::string ring_declines(const IndexerLogits& call) {
    constexpr std::int64_t most = 0x7fffffff - 64;  // coordinates of a tensor copy
    if (call.T > most || call.S > most) return "T and S must be below 2^31 - 64";
    return wgmma_declines(call.hopper_sums, call.q != nullptr, call.H_I, call.D_I);
}

template <int heads, int row_bytes, Relu relu, Columns order>
void start_ring_of(const IndexerLogits& call) {
    using S = Scores<heads, row_bytes, 256 / heads, order>;
    const auto start = [&](const auto& rows) {
        start_logits_ring<S, relu>(rows, blocks_for(call.T, 2 * S::queries), call.S, call.stream);
    };
    if constexpr (order == Columns::by_lane)
        if (!call.bf16_scores) return start(Float32Scores<MappedRows<S>>{mapped_rows<S>(call)});
    start(mapped_rows<S>(call));
}

template <Relu relu, Columns order>
void start_ring(const IndexerLogits& call) {
    if (call.T == 0 || call.S == 0) return;
    const auto start = [&]<int row_bytes>() {
        if (call.H_I <= 16) return start_ring_of<16, row_bytes, relu, order>(call);
        if (call.H_I <= 32) return start_ring_of<32, row_bytes, relu, order>(call);
        start_ring_of<64, row_bytes, relu, order>(call);
    };
    if (call.D_I == 64) start.template operator()<64>();
    if (call.D_I == 128) start.template operator()<128>();
}

}  // namespace dsa
