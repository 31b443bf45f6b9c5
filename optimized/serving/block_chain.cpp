// A whole block over pages: transformer_block's residual stream, whose attention is the serving step.
#include "optimized/serving/serving.h"
#include "optimized/support/at_level.h"
#include "optimized/transformer_block/residual_stream.h"

namespace dsa {
namespace {

// Of norms and net: transformer_block's.
int level_of_stream() { return level_of_parts("serving_block_step") == 1 ? 1 : 2; }

}  // namespace

std::int64_t serving_block_step_workspace(const ServingBlockStep& call) {
    const int level = level_of_stream();
    return residual_stream_workspace(call, serving_step_workspace(call.attention), level);
}

void serving_block_step(const ServingBlockStep& call) {
    const int level = level_of_stream();
    ServingStep step = call.attention;
    step.workspace_bytes = serving_step_workspace(step);
    const auto attend = [&](const bf16* x, bf16* y, void* workspace) {
        step.block.mla.x = step.block.indexer.x = x;
        step.block.y = y;
        step.workspace = workspace;
        serving_step(step);
    };
    residual_stream(call, {step.workspace_bytes, attend}, level);
}

}  // namespace dsa
