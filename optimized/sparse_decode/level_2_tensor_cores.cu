// Level 2. A token is read, scaled and rounded once for 64 heads, into shared memory, and the products are the tensor
// cores'.
#include "optimized/attention/selected.h"
#include "optimized/sparse_decode/tensor_cores.h"
#include "optimized/support/ladder.h"

namespace dsa {

std::string sparse_decode_level_2_declines(const SparseDecode& call) {
    if (call.R_kv % 8 != 0) return sentence("R_kv must be a multiple of 8; it is ", call.R_kv);
    return tile_of_keys_declines(call.d, call.R_kv);
}

void sparse_decode_level_2(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_1(call));
    auto* kept = static_cast<std::int32_t*>(call.workspace);  // [rows, k]
    keep_selected(call.indices, kept, call.rows, call.k, call.slots, call.stream);
    if (heads_of_a_block(call) == 16)
        attend_cached<16>(call, kept);
    else
        attend_cached<64>(call, kept);
}

}  // namespace dsa
