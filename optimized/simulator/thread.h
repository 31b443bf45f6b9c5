// What a CUDA thread is on a machine without a GPU: a fiber. The fibers of a block share one thread of the operating
// system and take turns in an order drawn from a seed; a fiber gives up its turn only where the hardware could make
// it wait. docs/20-the-simulator.md.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <source_location>
#include <string>

namespace dsa::simulator {

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    std::uint64_t count() const { return std::uint64_t{x} * y * z; }
};

class Block;

// Where in a kernel's source a thread is.
using Where = std::source_location;

class Thread {
   public:
    Dim3 index{0, 0, 0};
    unsigned number = 0;  // in the block; lane = number % 32, warp = number / 32
    Block* block = nullptr;

    unsigned lane() const { return number % 32; }
    unsigned warp() const { return number / 32; }

    // What it waits for, as a clause of a sentence; empty while it can go on.
    std::string waits_for;
    bool finished = false;

    // The 32 lanes' values of the last exchange of the warp that this thread took part in.
    std::uint64_t received[32] = {};

   private:
    friend class Block;
    ucontext_t context_{};
    void* stack_ = nullptr;
};

// The thread whose turn it is.
Thread& this_thread();

}  // namespace dsa::simulator
