// Level 1. Every part at its level 1.
#include "optimized/training_step/op.h"

namespace dsa {

std::int64_t training_step_level_1_workspace(const TrainingStep& call) {
    return training_step_chain_workspace(call, 1);
}
void training_step_level_1(const TrainingStep& call) { training_step_chain(call, 1); }

}  // namespace dsa
