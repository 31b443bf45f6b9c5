// Level 1. Every head gathers every selected row again, twice: 2 T H k d numbers of 2 bytes, from L2 at best.
#include "optimized/attention/keys.cuh"
#include "optimized/attention/one_block_a_head.cuh"
#include "optimized/attention/selected.h"
#include "optimized/sparse_prefill/op.h"
#include "optimized/support/ladder.h"

namespace dsa {

void sparse_prefill_level_1(const SparsePrefill& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_prefill_workspace_1(call));
    auto* kept = static_cast<std::int32_t*>(call.workspace);  // [T, k]
    keep_selected_by_comparing(call.indices, kept, call.T, call.k, call.S, call.stream);
    attend_one_block_a_head("sparse_prefill_head", SelectedRows{call.kv, kept, call.k, call.d}, call.q, call.result,
                            call.T, call.H, call.d, call.d_v, call.stream);
}

}  // namespace dsa
