// Level 2. The same chain, its products on the tensor cores: bf16, or e4m3 with one scale for 128 numbers of k; the
// gate's scores stay float32 products, split over blocks.
#include "optimized/moe/op.h"

namespace dsa {

std::int64_t moe_level_2_workspace(const Moe& call) { return moe_chain_workspace(call, 2); }
void moe_level_2(const Moe& call) { moe_chain(call, 2); }

}  // namespace dsa
