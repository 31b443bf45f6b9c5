// Level 2. The same chain, every part at the highest level that takes it, and the selection without a [T, S] tensor.
#include "optimized/dsa_attention/op.h"

namespace dsa {

std::int64_t dsa_attention_level_2_workspace(const DsaAttention& call) {
    return dsa_attention_chain_workspace(call, 2);
}
void dsa_attention_level_2(const DsaAttention& call) { dsa_attention_chain(call, 2); }

}  // namespace dsa
