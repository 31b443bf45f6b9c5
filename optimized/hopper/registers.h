// Registers from warps that need few to warps that need many: the producer gives back, the consumers take. All four
// warps of a warpgroup say the same number, a multiple of 8 from 24 to 256. PTX ISA, "setmaxnreg". The kernel must be
// compiled for a fixed number of threads (__launch_bounds__).
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

template <int registers>
__device__ void take_registers(Where where = Where::current());
template <int registers>
__device__ void give_back_registers(Where where = Where::current());

#if defined(DSA_SIMULATOR)

template <int registers>
void take_registers(Where where) {
    simulator::this_thread().block->registers.increase(registers, where);
}
template <int registers>
void give_back_registers(Where where) {
    simulator::this_thread().block->registers.decrease(registers, where);
}

#else

template <int registers>
__device__ inline void take_registers(Where) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ inline void give_back_registers(Where) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

#endif

}  // namespace dsa
