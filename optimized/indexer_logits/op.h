// The lightning indexer's scores: I(t, s) = k_scale(s) sum_j w(t, j) ReLU(q(t, j) . k(s)), -inf outside
// [start_t, end_t), which is cut to [0, S). spec section 3.
//
// level 1  one thread a key: the query's heads in shared memory, float32 products
// level 2  tensor cores: 128 keys stay in registers while 8 queries pass, a key's heads are summed where they arise
// level 3  wgmma, with Hopper's sums: a warp brings tiles of keys, two warpgroups score them for 256 heads each
// level 4  ReLU by a predicate: what is not positive is not added
// level 5  up to four queries: no columns for more, and the warpgroups take turns at the keys
// level 6  level 4, its columns in such an order that a thread has all heads of a query, and lanes exchange nothing
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct IndexerLogits {
    const e4m3* q;  // [T, H_I, D_I]; null where q_bf16 and k_bf16 are given, for Quantizer::none
    const bf16* q_bf16;
    const e4m3* k;  // [S, D_I]
    const bf16* k_bf16;
    const float* k_scale;       // [S]
    const float* weights;       // [T, H_I]
    const std::int32_t* start;  // [T]
    const std::int32_t* end;    // [T]
    float* logits;              // [T, S]
    std::int64_t T, S;
    int H_I, D_I;
    bool bf16_scores;  // a score is rounded to bf16
    bool hopper_sums;  // the dots may be added as Hopper's FP8 tensor cores add: fp8_sums
    Stream stream;
};

// The chosen level, for layers that hold such a call.
void indexer_logits(const IndexerLogits& call);

void indexer_logits_level_1(const IndexerLogits& call);
void indexer_logits_level_2(const IndexerLogits& call);
std::string indexer_logits_level_2_declines(const IndexerLogits& call);
void indexer_logits_level_3(const IndexerLogits& call);
std::string indexer_logits_level_3_declines(const IndexerLogits& call);
void indexer_logits_level_4(const IndexerLogits& call);
void indexer_logits_level_5(const IndexerLogits& call);
std::string indexer_logits_level_5_declines(const IndexerLogits& call);
void indexer_logits_level_6(const IndexerLogits& call);
std::string indexer_logits_level_6_declines(const IndexerLogits& call);

}  // namespace dsa
