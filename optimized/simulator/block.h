// A thread block at work: its fibers, its shared memory, its barriers, and the exchanges of its warps.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "optimized/simulator/thread.h"

namespace dsa::simulator {

// A kernel did what hardware punishes or leaves undefined. The text names the block, the thread and the source line.
class Fault : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
};

struct Shape {
    Dim3 grid;
    Dim3 block;
    std::size_t shared_bytes = 0;
};

class Block {
   public:
    // index: in the grid. seed: of the order in which threads take turns.
    Block(const Shape& shape, Dim3 index, std::uint64_t seed);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    // Runs `kernel` once a thread, until all have returned. Throws Fault, or what the kernel threw.
    void run(const std::function<void()>& kernel);

    const Shape& shape() const { return shape_; }
    Dim3 index() const { return index_; }
    // Aligned to 1024 bytes; every byte is 0xff before anything is written, which makes a NaN of every float.
    std::byte* shared() { return shared_; }

    // Waits until `count` threads have come to barrier `number`.
    void barrier(unsigned number, unsigned count, const char* what, Where where);
    // __syncthreads: all threads that have not returned.
    void barrier_of_all(Where where);
    // Every lane of `mask` brings a value; each then finds all of them in Thread::received. The last to come does
    // `work` with the 32 lanes' values before any lane goes on.
    using Work = void (*)(const std::uint64_t (&values)[32]);
    void exchange(std::uint32_t mask, std::uint64_t value, const char* what, Where where, Work work = nullptr);

    // "block (1, 0, 0), thread 33, rms_norm.cu:41: "
    std::string place(Where where) const;
    // The other threads' turn, at a place where waiting is allowed but nothing is waited for.
    void yield();

   private:
    struct Barrier {
        unsigned arrived = 0;
        unsigned count = 0;
        std::vector<Thread*> waiting;
    };
    struct Exchange {
        std::uint32_t arrived = 0;
        std::uint64_t values[32] = {};
        const char* what = "";
    };

    static void enter(unsigned high, unsigned low);
    void switch_to(Thread& thread);
    void switch_back();
    void wait(std::string what);
    void wake(Thread& thread);
    void complete(Barrier& barrier);
    unsigned living() const { return living_; }
    [[noreturn]] void report_deadlock();

    Shape shape_;
    Dim3 index_;
    std::minstd_rand random_;
    std::vector<Thread> threads_;
    std::vector<Thread*> ready_;
    unsigned living_ = 0;
    const std::function<void()>* kernel_ = nullptr;
    std::exception_ptr failure_;
    ucontext_t scheduler_{};
    const void* scheduler_bottom_ = nullptr;
    std::size_t scheduler_size_ = 0;
    std::unique_ptr<std::byte[]> shared_memory_;
    std::byte* shared_ = nullptr;
    std::map<unsigned, Barrier> barriers_;
    Barrier all_;
    std::map<std::pair<unsigned, std::uint32_t>, Exchange> exchanges_;  // by warp and mask
};

// Runs all blocks of a grid, spread over the processors. DSA_SIMULATOR_SEED seeds the schedule (default 1).
void run_grid(const Shape& shape, const std::function<void()>& kernel);

}  // namespace dsa::simulator
