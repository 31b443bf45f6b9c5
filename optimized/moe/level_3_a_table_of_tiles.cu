// Level 3. The same chain, its products warp-specialised (linear, level 3): each block finds the tiles that there are
// from the experts' counts, where level 2 starts the grid of the worst case.
#include "optimized/moe/op.h"

namespace dsa {

std::int64_t moe_level_3_workspace(const Moe& call) { return moe_chain_workspace(call, 3); }
void moe_level_3(const Moe& call) { moe_chain(call, 3); }

}  // namespace dsa
