// Level 1. Bound: the five products. A number brought to shared memory serves 32 of them.
#include "optimized/dense_mqa_backward/op.h"

namespace dsa {

void dense_mqa_backward_level_1(const DenseMqaBackward& call) { dense_mqa_backward_chain(call, 1); }

}  // namespace dsa
