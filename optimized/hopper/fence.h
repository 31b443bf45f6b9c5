// The fence between the two proxies. Threads read and write through the generic proxy; bulk and tensor copies and
// wgmma reach memory through the asynchronous one. What a thread has written itself, and a copy or product is to
// read, needs this fence after the write: by the thread that wrote, before it tells the thread that issues, or by
// that one, after it has been told. What a copy brought needs none. PTX ISA, "Async proxy", "membar, fence",
// "Causality order": a proxy fence along the path.
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

__device__ void fence_proxy_async(Where where = Where::current());
// The same for this block's shared memory only. The one above also orders global memory, and ptxas makes of that a
// MEMBAR for the whole GPU: hundreds of clocks.
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
