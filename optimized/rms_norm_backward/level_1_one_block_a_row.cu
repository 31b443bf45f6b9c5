// Level 1. Bound: bytes; x and dy are read twice (the second time from L2) and dx is written, 6 bytes a number, and
// dweight reads both once more.
#include "optimized/rms_norm_backward/rows.cuh"
#include "optimized/support/ladder.h"

namespace dsa {

std::int64_t rms_norm_backward_level_1_workspace(const RmsNormBackward& call) {
    return call.T * static_cast<std::int64_t>(sizeof(float));
}

void rms_norm_backward_level_1(const RmsNormBackward& call) {
    require_workspace(call.workspace, call.workspace_bytes, rms_norm_backward_level_1_workspace(call));
    auto* inverse_rms = static_cast<float*>(call.workspace);  // [T]
    rms_norm_backward::gradient_of_rows(call, inverse_rms);
    // One piece: without tokens it is empty, and the sum 0.
    rms_norm_backward::gradient_of_weights(call, inverse_rms, call.dweight, 1);
}

}  // namespace dsa
