// Level 1. Every head reads, scales and rounds every selected token again, byte by byte.
#include "optimized/attention/keys.cuh"
#include "optimized/attention/one_block_a_head.cuh"
#include "optimized/attention/selected.h"
#include "optimized/sparse_decode/op.h"
#include "optimized/support/ladder.h"

namespace dsa {

void sparse_decode_level_1(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_1(call));
    auto* kept = static_cast<std::int32_t*>(call.workspace);  // [rows, k]
    keep_selected_by_comparing(call.indices, kept, call.rows, call.k, call.slots, call.stream);
    const SelectedTokens keys{call.kv_pages, kept, call.k, call.token_bytes(), call.R_kv, call.block()};
    attend_one_block_a_head("sparse_decode_head", keys, call.q, call.result, call.rows, call.H, call.d, call.R_kv,
                            call.stream);
}

}  // namespace dsa
