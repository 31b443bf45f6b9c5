// Level 2. The same chain, every part at the highest level that takes it, and the selection without a [T, S] tensor.
#include "optimized/transformer_block/op.h"

namespace dsa {

std::int64_t transformer_block_level_2_workspace(const TransformerBlock& call) {
    return transformer_block_chain_workspace(call, 2);
}
void transformer_block_level_2(const TransformerBlock& call) { transformer_block_chain(call, 2); }

}  // namespace dsa
