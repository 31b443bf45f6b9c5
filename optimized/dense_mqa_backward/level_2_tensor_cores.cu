// Level 2. The five products are the tensor cores', where S, T H and the widths are multiples of 8 numbers; a product
// that is not runs at level 1.
#include "optimized/dense_mqa_backward/op.h"

namespace dsa {

void dense_mqa_backward_level_2(const DenseMqaBackward& call) { dense_mqa_backward_chain(call, 2); }

}  // namespace dsa
