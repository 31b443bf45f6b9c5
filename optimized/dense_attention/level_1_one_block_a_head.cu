// Level 1. Every query and head reads every key again.
#include "optimized/attention/keys.cuh"
#include "optimized/attention/one_block_a_head.cuh"
#include "optimized/dense_attention/op.h"

namespace dsa {

void dense_attention_level_1(const DenseAttention& call) {
    const Seen seen{call.start, call.T, call.S, call.causal};
    const SeenRows keys{call.keys, call.values, seen, call.d, call.mqa ? call.d : call.d_v, call.mqa ? 1 : call.H};
    attend_one_block_a_head("dense_attention_head", keys, call.q, call.result, call.T, call.H, call.d, call.d_v,
                            call.stream);
}

}  // namespace dsa
