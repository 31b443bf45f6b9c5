// bar.red.or: a vote at a named barrier.
#pragma once

#include "optimized/simulator/thread.h"

namespace dsa::simulator {

bool any_at_barrier(unsigned number, unsigned count, bool mine, Where where);

}  // namespace dsa::simulator
