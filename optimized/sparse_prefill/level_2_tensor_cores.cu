// Level 2. A selected row is gathered once for 64 heads, and the products are the tensor cores'.
#include "optimized/attention/selected.h"
#include "optimized/attention/tile_keys.cuh"
#include "optimized/sparse_prefill/op.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

template <int heads>
void attend(const SparsePrefill& call, const std::int32_t* kept) {
    const SelectedTile<heads> keys{{call.H}, {call.kv, kept, call.k, call.d}};
    attend_tile_of_keys<heads>("sparse_prefill_tile", keys, call.q, call.result, call.T * blocks_for(call.H, heads),
                               call.T * call.H, call.H, call.d, call.d_v, call.stream);
}

}  // namespace

std::string sparse_prefill_level_2_declines(const SparsePrefill& call) {
    return tile_of_keys_declines(call.d, call.d_v);
}

void sparse_prefill_level_2(const SparsePrefill& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_prefill_workspace_1(call));
    auto* kept = static_cast<std::int32_t*>(call.workspace);  // [T, k]
    keep_selected(call.indices, kept, call.T, call.k, call.S, call.stream);
    if (call.H <= 16)
        attend<16>(call, kept);
    else
        attend<64>(call, kept);
}

}  // namespace dsa
