// Level 10. Levels 4 to 8 make a tile of bf16 in shared memory, and two blocks send each other half of it. Here codes
// go through registers into the tensor cores (code_tiles.cuh): tokens are the rows of k q^T, columns those of v^T
// p^T, 8 to 64 heads the columns of both. No cluster; two blocks of a query read its tokens each.
#include "optimized/sparse_decode/code_attention.cuh"
#include "optimized/sparse_decode/f16_scores.cuh"

namespace dsa {

std::string sparse_decode_level_10_declines(const SparseDecode& call) {
    using namespace code_tiles;
    if (call.R_kv != latent || call.d != width)
        return sentence("tokens must be of ", latent, " + ", rotated, " columns; they are of ", call.R_kv, " + ",
                        call.d - call.R_kv);
    if (call.k > most_slots) return sentence("k must be at most ", most_slots, "; it is ", call.k);
    return {};
}
std::int64_t sparse_decode_workspace_10(const SparseDecode& call) { return code_tiles::workspace(call); }
void sparse_decode_level_10(const SparseDecode& call) {
    code_tiles::attend<code_tiles::ScorerInF16>("sparse_decode_codes", call);
}

}  // namespace dsa
