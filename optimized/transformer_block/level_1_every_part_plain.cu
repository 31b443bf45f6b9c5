// Level 1. Every part at its level 1; the scores of all candidates lie in memory between indexer and selection.
#include "optimized/transformer_block/op.h"

namespace dsa {

std::int64_t transformer_block_level_1_workspace(const TransformerBlock& call) {
    return transformer_block_chain_workspace(call, 1);
}
void transformer_block_level_1(const TransformerBlock& call) { transformer_block_chain(call, 1); }

}  // namespace dsa
