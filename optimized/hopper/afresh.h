// For whom registers are scarce. The same number, but what is computed of it is computed where it stands; of a
// thread's number, say, it would be computed once before a loop, and hold a register all the way.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

__device__ inline int afresh(int number) {
#if !defined(DSA_SIMULATOR)
    asm volatile("" : "+r"(number));
#endif
    return number;
}

template <class T>
__device__ const T* afresh(const T* pointer) {
#if !defined(DSA_SIMULATOR)
    asm volatile("" : "+l"(pointer));
#endif
    return pointer;
}

}  // namespace dsa
