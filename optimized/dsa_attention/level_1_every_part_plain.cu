// Level 1. Every part at its level 1; the scores of all candidates lie in memory between indexer and selection.
#include "optimized/dsa_attention/op.h"

namespace dsa {

std::int64_t dsa_attention_level_1_workspace(const DsaAttention& call) {
    return dsa_attention_chain_workspace(call, 1);
}
void dsa_attention_level_1(const DsaAttention& call) { dsa_attention_chain(call, 1); }

}  // namespace dsa
