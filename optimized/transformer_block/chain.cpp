// The chain that every level is: the residual stream around dsa_attention.
#include "optimized/transformer_block/residual_stream.h"

namespace dsa {

std::int64_t transformer_block_chain_workspace(const TransformerBlock& call, int level) {
    return residual_stream_workspace(call, dsa_attention_chain_workspace(call.attention, level), level);
}

void transformer_block_chain(const TransformerBlock& call, int level) {
    DsaAttention attention = call.attention;
    attention.workspace_bytes = dsa_attention_chain_workspace(attention, level);
    const auto attend = [&](const bf16* x, bf16* y, void* workspace) {
        attention.mla.x = attention.indexer.x = x;
        attention.y = y;
        attention.workspace = workspace;
        dsa_attention_chain(attention, level);
    };
    residual_stream(call, {attention.workspace_bytes, attend}, level);
}

}  // namespace dsa
