// What indexer_logits and indexer_top_k read alike.
#pragma once

#include "optimized/indexer_logits/op.h"
#include "optimized/support/arguments.h"
#include "optimized/support/case.h"

namespace dsa {

inline constexpr std::int64_t widest_indexer_head = 4096;  // level 1 keeps one in shared memory

inline void require_heads(std::int64_t H_I, std::int64_t D_I) {
    constexpr std::int64_t most_heads = 1 << 20;
    require(H_I > 0 && H_I <= most_heads && D_I > 0 && D_I <= widest_indexer_head, "the indexer takes heads of 1 to ",
            widest_indexer_head, " numbers, one head at least; H_I is ", H_I, ", D_I ", D_I);
}

// q, k, k_scale, weights, start, end; binds T, S, H_I and D_I.
template <class Args>
void read_scoring(const Case& about, Arguments& tensors, const Args& args, IndexerLogits& call) {
    if (args.q.dtype == dsa_bfloat16) {
        call.q_bf16 = tensors.in<bf16>("q", args.q, {"T", "H_I", "D_I"});
        call.k_bf16 = tensors.in<bf16>("k", args.k, {"S", "D_I"});
    } else {
        call.q = tensors.in<e4m3>("q", args.q, {"T", "H_I", "D_I"});
        call.k = tensors.in<e4m3>("k", args.k, {"S", "D_I"});
    }
    call.k_scale = tensors.in<float>("k_scale", args.k_scale, {"S"});
    call.weights = tensors.in<float>("weights", args.weights, {"T", "H_I"});
    call.start = tensors.in<std::int32_t>("start", args.start, {"T"});
    call.end = tensors.in<std::int32_t>("end", args.end, {"T"});
    call.T = tensors.size("T");
    call.S = tensors.size("S");
    require_heads(tensors.size("H_I"), tensors.size("D_I"));
    call.H_I = static_cast<int>(tensors.size("H_I"));
    call.D_I = static_cast<int>(tensors.size("D_I"));
    call.bf16_scores = about.conventions().indexer_scores_bf16;
    call.hopper_sums = about.conventions().hopper_fp8_sums;
    call.stream = args.stream;
}

}  // namespace dsa
