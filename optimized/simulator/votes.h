// bar.red.or: a vote at a named barrier.
#pragma once

#include "optimized/simulator/block.h"

namespace dsa::simulator {

inline bool any_at_barrier(unsigned number, unsigned count, bool mine, Where where) {
    return this_thread().block->any_at_barrier(number, count, mine, where);
}

}  // namespace dsa::simulator
