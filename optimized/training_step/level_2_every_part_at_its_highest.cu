// Level 2. The same chain, every part at the highest level that takes it.
#include "optimized/training_step/op.h"

namespace dsa {

std::int64_t training_step_level_2_workspace(const TrainingStep& call) {
    return training_step_chain_workspace(call, 2);
}
void training_step_level_2(const TrainingStep& call) { training_step_chain(call, 2); }

}  // namespace dsa
