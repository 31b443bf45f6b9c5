// Who has the next turn: the fibers of one cluster, on one thread of the operating system. The order is drawn from a
// seed, the same order for the same seed.
#pragma once

#include <csetjmp>
#include <functional>
#include <random>
#include <utility>
#include <vector>

#include "optimized/simulator/thread.h"

namespace dsa::simulator {

class Schedule {
   public:
    // Whom the schedule asks and tells.
    class Host {
       public:
        virtual ~Host() = default;
        virtual void turn_is_over() = 0;
        // Nobody can go on: does something that may let somebody, or answers false.
        virtual bool help() = 0;
        virtual void has_returned(Thread& thread) = 0;
        [[noreturn]] virtual void report_deadlock() = 0;
    };

    Schedule(Host& host, std::uint64_t seed);
    ~Schedule();
    Schedule(const Schedule&) = delete;
    Schedule& operator=(const Schedule&) = delete;

    // The thread gets a fiber, which run() starts.
    void add(Thread& thread);
    // Runs `body` once a thread, until all have returned. Throws Fault, or what the body threw.
    void run(const std::function<void()>& body);

    // Called by the thread whose turn it is: it waits until somebody wakes it, or until a condition holds that
    // asynchronous operations bring about, or it only gives up its turn.
    void wait(Waits what);
    void wait_until(std::function<bool()> condition, Waits what);
    void yield();
    void wake(Thread& thread);
    // Ends the run with this failure, where an exception cannot pass: the calling thread is left where it is.
    [[noreturn]] static void stop(std::exception_ptr failure);
    // Wakes those whose condition holds now.
    void look_at_conditions();

    std::uint32_t draw(std::uint32_t below) { return static_cast<std::uint32_t>(random_()) % below; }

   private:
    static void enter(unsigned high, unsigned low);
    static void begin(Thread& thread);
    void switch_to(Thread& thread);
    void switch_back();

    Host& host_;
    std::minstd_rand random_;
    std::vector<Thread*> all_;
    std::vector<void*> own_stacks_;
    std::vector<Thread*> ready_;
    std::vector<std::pair<Thread*, std::function<bool()>>> conditions_;
    std::size_t living_ = 0;
    const std::function<void()>* body_ = nullptr;
    std::exception_ptr failure_;
    std::jmp_buf scheduler_{};
    void* asan_stack_ = nullptr;  // the scheduler's, while a fiber runs
    const void* scheduler_bottom_ = nullptr;
    std::size_t scheduler_size_ = 0;
};

}  // namespace dsa::simulator
