// Level 5. Two launches fewer to wait for: which slots count is found by the consumers while the producer brings the
// first tokens, and the kernel that adds parts is started before they are there.
#include "optimized/sparse_decode/selecting.cuh"

namespace dsa {

std::string sparse_decode_level_5_declines(const SparseDecode& call) {
    const std::string why = sparse_decode_level_4_declines(call);
    if (why.empty() && call.k > cached_tiles::most_slots)
        return sentence("k must be at most ", cached_tiles::most_slots, "; it is ", call.k);
    return why;
}

std::int64_t sparse_decode_workspace_5(const SparseDecode& call) { return cached_tiles::selecting_workspace(call); }

void sparse_decode_level_5(const SparseDecode& call) {
    cached_tiles::start_selecting<1>("sparse_decode_selecting", call);
}

}  // namespace dsa
