// How wrong is a next token? loss = mean of -log softmax(logits)[target] over the tokens that count, and dlogits =
// (softmax - onehot) / count. A negative target does not count. In nats. spec section 7; docs/14-gradients.md.
//
// level 1  one block a row: a pass for the maximum, one for the sum, one for dlogits
// level 2  maximum and sum in one pass, 16 bytes a thread at a time
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct CrossEntropy {
    const float* logits;          // [T, V]
    const std::int32_t* targets;  // [T]
    float* loss;                  // [1]
    float* dlogits;               // [T, V]
    std::int64_t T, V;
    void* workspace;
    std::int64_t workspace_bytes;
    Stream stream;
};

std::int64_t cross_entropy_workspace(const CrossEntropy& call);

void cross_entropy_level_1(const CrossEntropy& call);
void cross_entropy_level_2(const CrossEntropy& call);
std::string cross_entropy_level_2_declines(const CrossEntropy& call);

}  // namespace dsa
