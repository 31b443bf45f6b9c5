// Level 2. A key is brought once for 64 rows of q, and the products are the tensor cores'. The rows are heads of one
// query that share the latent (MQA), or queries of one head (MHA).
#include "optimized/attention/tile_keys.cuh"
#include "optimized/dense_attention/op.h"

namespace dsa {
namespace {

Seen seen_by(const DenseAttention& call) { return {call.start, call.T, call.S, call.causal}; }

template <int heads>
void attend_latent(const DenseAttention& call) {
    const SeenTile<heads> keys{{call.H}, call.keys, seen_by(call), call.d};
    attend_tile_of_keys<heads>("dense_attention_latent", keys, call.q, call.result,
                               call.T * blocks_for(call.H, heads), call.T * call.H, call.H, call.d, call.d_v,
                               call.stream);
}

template <int queries>
void attend_own_head(const DenseAttention& call) {
    const OwnHeadTile<queries> keys{call.keys, call.values, seen_by(call), call.H, call.d, call.d_v};
    attend_tile_of_keys<queries>("dense_attention_own_head", keys, call.q, call.result,
                                 blocks_for(call.T, queries) * call.H, call.T * call.H, call.H, call.d, call.d_v,
                                 call.stream);
}

}  // namespace

std::string dense_attention_level_2_declines(const DenseAttention& call) {
    if (!call.mqa && call.d_v % 8 != 0)
        return sentence("values must be of a multiple of 8 numbers; they are of ", call.d_v);
    return tile_of_keys_declines(call.d, call.d_v);
}

void dense_attention_level_2(const DenseAttention& call) {
    const bool few = (call.mqa ? call.H : call.T) <= 16;
    if (call.mqa && few) return attend_latent<16>(call);
    if (call.mqa) return attend_latent<64>(call);
    if (few) return attend_own_head<16>(call);
    attend_own_head<64>(call);
}

}  // namespace dsa
