// Level 6. The two blocks that have the heads of one query are a cluster: each converts half of the tokens, and sends
// them to the other through distributed shared memory.
#include "optimized/sparse_decode/selecting.cuh"

namespace dsa {

std::string sparse_decode_level_6_declines(const SparseDecode& call) {
    const std::string why = sparse_decode_level_5_declines(call);
    if (!why.empty()) return why;
    const cached_tiles::Plan plan(call);
    if (plan.groups % 2 != 0)
        return sentence("two blocks share the tokens of a query; ", call.H, " heads in groups of ", plan.heads_each,
                        " are ", plan.groups);
    return {};
}

void sparse_decode_level_6(const SparseDecode& call) {
    cached_tiles::start_selecting<2>("sparse_decode_sharing", call);
}

}  // namespace dsa
