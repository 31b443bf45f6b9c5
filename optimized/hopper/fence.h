// The fence between the two proxies. Threads read and write through the generic proxy; bulk and tensor copies and
// wgmma reach memory through the asynchronous one. What a thread has written itself, and a copy or product is to
// read, needs this fence after the write, by the thread that wrote, before it tells the thread that issues. What a
// copy brought needs none. PTX ISA, "Async proxy", "membar, fence".
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

__device__ void fence_proxy_async(Where where = Where::current());
// The same for what was written in this block's shared memory alone: one instruction, where the other also waits for
// all that the thread has written to global memory (MEMBAR.ALL.GPU in SASS).
__device__ void fence_proxy_async_shared(Where where = Where::current());

#if defined(DSA_SIMULATOR)

inline void fence_proxy_async(Where where) {
    const simulator::Thread& self = simulator::this_thread();
    self.block->cluster().mbarriers.fence(self);
    simulator::order().fence_proxy_async(self, where);
}
inline void fence_proxy_async_shared(Where where) { fence_proxy_async(where); }

#else

__device__ inline void fence_proxy_async(Where) { asm volatile("fence.proxy.async;" ::: "memory"); }
__device__ inline void fence_proxy_async_shared(Where) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif

}  // namespace dsa
