// Level 1. Bound: the five products. A number brought to shared memory serves 32 of them.
#include "optimized/dense_mha_backward/op.h"

namespace dsa {

void dense_mha_backward_level_1(const DenseMhaBackward& call) { dense_mha_backward_chain(call, 1); }

}  // namespace dsa
