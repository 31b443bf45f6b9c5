// Level 3. The six products of rows with an expert's matrices are warp-specialised (linear, level 3), over the tiles
// that there are; the three gradients of weights are level 2's.
#include "optimized/moe_backward/op.h"

namespace dsa {

std::int64_t moe_backward_level_3_workspace(const MoeBackward& call) { return moe_backward_chain_workspace(call, 3); }
void moe_backward_level_3(const MoeBackward& call) { moe_backward_chain(call, 3); }

}  // namespace dsa
