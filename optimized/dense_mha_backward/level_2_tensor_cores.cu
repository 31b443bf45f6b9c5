// Level 2. The five products are the tensor cores', where S, T and the heads' widths are multiples of 8 numbers; a
// product that is not runs at level 1.
#include "optimized/dense_mha_backward/op.h"

namespace dsa {

void dense_mha_backward_level_2(const DenseMhaBackward& call) { dense_mha_backward_chain(call, 2); }

}  // namespace dsa
