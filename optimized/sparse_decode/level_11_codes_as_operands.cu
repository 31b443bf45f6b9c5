// Level 11. Level 10's scorers make f16 of every code, 2900 clocks a tile where the tensor cores need 1152. Codes are
// e4m3, which the tensor cores take as they are; so q is made e4m3 instead, once a block, in two pieces that lose
// nothing of it (code_scores.cuh). The weighers stay as they were.
#include "optimized/sparse_decode/code_attention.cuh"
#include "optimized/sparse_decode/code_scores.cuh"

namespace dsa {

void sparse_decode_level_11(const SparseDecode& call) {
    code_tiles::attend<code_tiles::CodeScorer>("sparse_decode_code_operands", call);
}

}  // namespace dsa
