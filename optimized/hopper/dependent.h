// A kernel may start before the one ahead of it in the stream has ended (Launch::overlaps_previous). Before it reads
// what that one wrote it must wait for it; and the one ahead may say earlier that the next one may start. PTX ISA,
// "griddepcontrol".
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

// Until the kernel ahead has ended and what it wrote is seen; of those before it that is so if it waits, too.
__device__ void wait_for_previous_kernel();
__device__ void let_next_kernel_start();

#if defined(DSA_SIMULATOR)

// Here kernels run one after another; a block of an overlapping kernel in which nobody waits is a fault.
inline void wait_for_previous_kernel() { simulator::this_thread().block->waits_for_previous(); }
inline void let_next_kernel_start() {}

#else

__device__ inline void wait_for_previous_kernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ inline void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

#endif

}  // namespace dsa
