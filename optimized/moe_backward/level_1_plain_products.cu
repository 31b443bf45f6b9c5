// Level 1. Bound: nine products a net. A number brought to shared memory serves 32 of them.
#include "optimized/moe_backward/op.h"

namespace dsa {

std::int64_t moe_backward_level_1_workspace(const MoeBackward& call) { return moe_backward_chain_workspace(call, 1); }
void moe_backward_level_1(const MoeBackward& call) { moe_backward_chain(call, 1); }

}  // namespace dsa
