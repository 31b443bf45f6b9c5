// A ring of stages that one side fills and the other empties: where in it a side is.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

template <int stages>
struct RingTurn {
    int stage = 0;
    int parity = 0;  // of how often the ring has been round: the phase that an mbarrier's wait asks for
    __device__ void next() {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

}  // namespace dsa
