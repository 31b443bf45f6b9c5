// Level 2. The products are the tensor cores'; a product whose rows are no multiples of 16 bytes runs at level 1.
#include "optimized/moe_backward/op.h"

namespace dsa {

std::int64_t moe_backward_level_2_workspace(const MoeBackward& call) { return moe_backward_chain_workspace(call, 2); }
void moe_backward_level_2(const MoeBackward& call) { moe_backward_chain(call, 2); }

}  // namespace dsa
