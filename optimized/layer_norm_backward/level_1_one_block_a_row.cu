// Level 1. As rms_norm_backward's, with the mean taken first: sums of centred numbers lose no digits of a row far
// from 0.
#include "optimized/layer_norm_backward/rows.cuh"
#include "optimized/support/ladder.h"

namespace dsa {

std::int64_t layer_norm_backward_level_1_workspace(const LayerNormBackward& call) {
    return call.T * static_cast<std::int64_t>(sizeof(layer_norm_backward::Row));
}

void layer_norm_backward_level_1(const LayerNormBackward& call) {
    require_workspace(call.workspace, call.workspace_bytes, layer_norm_backward_level_1_workspace(call));
    auto* rows = static_cast<layer_norm_backward::Row*>(call.workspace);  // [T]
    layer_norm_backward::gradient_of_rows(call, rows);
    // One piece: without tokens it is empty, and the sums 0.
    layer_norm_backward::gradient_of_weights(call, rows, call.dweight, call.dbias, 1);
}

}  // namespace dsa
