// The listener that finds races: accesses of the same bytes, one of them a write, that nothing puts in order; reads
// of shared memory that nobody wrote; accesses beyond what a kernel may touch; and what the asynchronous proxy cannot
// have seen. Each is a Fault. docs/20-the-simulator.md.
#pragma once

#include "optimized/simulator/order.h"
#include "optimized/simulator/shadow.h"

namespace dsa::simulator {

Order& races();

// A load or store of compiled code, by the thread whose turn it is; nothing where no kernel runs.
void accessed(const void* bytes, std::size_t count, Access access, const void* return_address);

// All threads of a block have returned: the hardware may give its shared memory to another one.
void block_returns(const Block& block);

// Memory around a kernel's buffers that it must not touch.
void put_off_limits(const void* bytes, std::size_t count);
void allow_again(const void* bytes);

}  // namespace dsa::simulator
