// The chain around a block's attention: norm, attention, addition; norm, feed-forward net, addition.
#pragma once

#include <functional>

#include "optimized/transformer_block/op.h"

namespace dsa {

// How the block attends: x [T, D], normalised -> y [T, D], with so much workspace.
struct Attending {
    std::int64_t workspace_bytes;
    std::function<void(const bf16* x, bf16* y, void* workspace)> run;
};

// Norms and net at `level` of transformer_block, 1 or 2.
void residual_stream(const ResidualStream& call, const Attending& attending, int level);
std::int64_t residual_stream_workspace(const ResidualStream& call, std::int64_t attention_bytes, int level);

}  // namespace dsa
