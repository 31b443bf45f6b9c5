// What a CUDA thread is on a machine without a GPU: a fiber. The fibers of a cluster's blocks share one thread of the
// operating system and take turns in an order drawn from a seed; a fiber gives up its turn only where the hardware
// could make it wait. docs/20-the-simulator.md.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>

#include "optimized/simulator/groups.h"

namespace dsa::simulator {

// A kernel did what hardware punishes or leaves undefined. The text names the block, the thread and the source line.
class Fault : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
};

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    std::uint64_t count() const { return std::uint64_t{x} * y * z; }
};

class Block;

inline constexpr std::size_t stack_bytes = 256 << 10;  // of a fiber

// Where in a kernel's source a thread is. Clang 14 has no std::source_location.
class Where {
   public:
    static constexpr Where current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
        Where here;
        here.file_ = file;
        here.line_ = line;
        return here;
    }
    constexpr const char* file_name() const { return file_; }
    constexpr unsigned line() const { return line_; }

   private:
    const char* file_ = "";
    unsigned line_ = 0;
};
// "rms_norm.cu:41"
std::string text_of(Where where);
// "(1, 0, 0)"
std::string text_of(Dim3 d);

// What a thread waits for, as a clause of a sentence; asked for only when nobody can go on.
using Waits = std::function<std::string()>;

class Thread {
   public:
    Dim3 index{0, 0, 0};
    unsigned number = 0;  // in the block; lane = number % 32, warp = number / 32, warpgroup = number / 128
    Block* block = nullptr;

    unsigned lane() const { return number % 32; }
    unsigned warp() const { return number / 32; }
    unsigned warpgroup() const { return number / 128; }

    Waits waits_for;  // empty while it can go on
    bool finished = false;

    // The 32 lanes' values of the last exchange of the warp that this thread took part in; until its next but one.
    const std::uint64_t* received = nullptr;
    // Where it came to that exchange, for sentences: an instruction and its place.
    const char* exchanges = "";
    Where exchanges_at;

    Groups cp_async;  // its copies in flight, in the groups of cp.async
    Groups bulk;      // and in those of bulk copies

    const void* stack() const { return stack_; }

   private:
    friend class Schedule;
    std::jmp_buf resume_at_{};
    void* stack_ = nullptr;
    void* asan_stack_ = nullptr;
    bool has_begun_ = false;
};

// The thread whose turn it is.
Thread& this_thread();
// nullptr where none has the turn.
const Thread* thread_at_work();

}  // namespace dsa::simulator
