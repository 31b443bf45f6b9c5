// The parts of CUDA's words that are the simulator's own business: compiled without the call-outs of kernels' code.
#include "optimized/simulator/cuda.h"

namespace dsa::simulator {

Dim3 thread_index() { return this_thread().index; }
Dim3 block_index() { return this_thread().block->index(); }
Dim3 block_dim() { return this_thread().block->shape().block; }
Dim3 grid_dim() { return this_thread().block->shape().grid; }

std::uint64_t bits_of_lane(std::uint32_t mask, std::uint64_t bits, unsigned source, const char* what, Where where) {
    Thread& self = this_thread();
    self.block->exchange(mask, bits, what, where);
    if ((mask >> (source % 32) & 1U) == 0)
        throw Fault(self.block->place(where) + what + " reads lane " + std::to_string(source) +
                    ", which its mask does not name");
    return self.received[source % 32];
}

std::uint32_t votes(std::uint32_t mask, bool vote, const char* what, Where where) {
    Thread& self = this_thread();
    self.block->exchange(mask, vote ? 1 : 0, what, where);
    std::uint32_t all = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if ((mask >> lane & 1U) != 0 && self.received[lane] != 0) all |= 1U << lane;
    return all;
}

}  // namespace dsa::simulator
