#include "optimized/simulator/schedule.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <mutex>
#include <new>

#include "optimized/simulator/order.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace dsa::simulator {
namespace {

constexpr std::size_t guard_bytes = 4096;  // below a stack: running over its end stops at once

// Asked for at every turn: not by a call, as the variables of a library would be.
thread_local Thread* current __attribute__((tls_model("initial-exec"))) = nullptr;
thread_local Schedule* running __attribute__((tls_model("initial-exec"))) = nullptr;

// Stacks are kept for the next block, also from grid to grid, each of which has new threads of the operating system.
class Stacks {
   public:
    void* take() {
        const std::lock_guard lock(mutex_);
        if (!free_.empty()) {
            void* stack = free_.back();
            free_.pop_back();
#if defined(__SANITIZE_ADDRESS__)
            __asan_unpoison_memory_region(stack, stack_bytes);  // a run that was stopped left frames on it
#endif
            return stack;
        }
        void* memory = mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        mprotect(memory, guard_bytes, PROT_NONE);
        return static_cast<std::byte*>(memory) + guard_bytes;
    }
    void give_back(const std::vector<void*>& stacks) {
        const std::lock_guard lock(mutex_);
        free_.insert(free_.end(), stacks.begin(), stacks.end());
    }
    ~Stacks() {
        for (void* stack : free_) munmap(static_cast<std::byte*>(stack) - guard_bytes, stack_bytes + guard_bytes);
    }

   private:
    std::mutex mutex_;
    std::vector<void*> free_;
};
Stacks stacks;

// AddressSanitizer follows which stack is in use.
void leaving_for([[maybe_unused]] void** own, [[maybe_unused]] const void* bottom,
                 [[maybe_unused]] std::size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(own, bottom, size);
#endif
}
void arrived_on([[maybe_unused]] void* own, [[maybe_unused]] const void** bottom,
                [[maybe_unused]] std::size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(own, bottom, size);
#endif
}

}  // namespace

Thread& this_thread() { return *current; }
const Thread* thread_at_work() { return current; }

Schedule::Schedule(Host& host, std::uint64_t seed)
    : host_(host), random_(static_cast<std::uint32_t>(seed ^ (seed >> 32)) | 1U) {}

Schedule::~Schedule() { stacks.give_back(own_stacks_); }

void Schedule::add(Thread& thread) {
    thread.stack_ = stacks.take();
    own_stacks_.push_back(thread.stack_);
    all_.push_back(&thread);
}

void Schedule::enter(unsigned high, unsigned low) {
    auto* thread = reinterpret_cast<Thread*>((std::uintptr_t{high} << 32) | low);
    Schedule& schedule = *running;
    arrived_on(nullptr, &schedule.scheduler_bottom_, &schedule.scheduler_size_);
    try {
        (*schedule.body_)();
        thread->finished = true;
        --schedule.living_;
        schedule.host_.has_returned(*thread);
    } catch (...) {
        if (!schedule.failure_) schedule.failure_ = std::current_exception();
    }
    leaving_for(nullptr, schedule.scheduler_bottom_, schedule.scheduler_size_);  // nullptr: this stack is done with
    _longjmp(schedule.scheduler_, 1);
}

// A fiber's first turn takes a context, to get onto its stack. Later ones jump: swapcontext asks the kernel for the
// signal mask at each switch, which took most of a simulation's time.
void Schedule::begin(Thread& thread) {
    thread.has_begun_ = true;
    static thread_local ucontext_t first;  // not in this frame, which is left and never returned to
    getcontext(&first);
    first.uc_stack.ss_sp = thread.stack_;
    first.uc_stack.ss_size = stack_bytes;
    first.uc_link = nullptr;
    const auto address = reinterpret_cast<std::uintptr_t>(&thread);
    makecontext(&first, reinterpret_cast<void (*)()>(&Schedule::enter), 2, static_cast<unsigned>(address >> 32),
                static_cast<unsigned>(address));
    setcontext(&first);
}

void Schedule::switch_to(Thread& thread) {
    current = &thread;
    order().takes_turn(thread);
    leaving_for(&asan_stack_, thread.stack_, stack_bytes);
    if (_setjmp(scheduler_) == 0) {
        if (thread.has_begun_)
            _longjmp(thread.resume_at_, 1);
        else
            begin(thread);
    }
    arrived_on(asan_stack_, nullptr, nullptr);
    current = nullptr;
}

void Schedule::switch_back() {
    Thread& thread = *current;
    leaving_for(&thread.asan_stack_, scheduler_bottom_, scheduler_size_);
    if (_setjmp(thread.resume_at_) == 0) _longjmp(scheduler_, 1);
    arrived_on(current->asan_stack_, &scheduler_bottom_, &scheduler_size_);
}

void Schedule::stop(std::exception_ptr failure) {
    Schedule& schedule = *running;
    if (!schedule.failure_) schedule.failure_ = std::move(failure);
    leaving_for(nullptr, schedule.scheduler_bottom_, schedule.scheduler_size_);
    _longjmp(schedule.scheduler_, 1);
}

void Schedule::run(const std::function<void()>& body) {
    body_ = &body;
    running = this;
    living_ = all_.size();
    ready_ = all_;
    while (living_ > 0) {
        if (ready_.empty()) {
            if (!host_.help()) host_.report_deadlock();
            look_at_conditions();
            continue;
        }
        const std::size_t pick = random_() % ready_.size();
        std::swap(ready_[pick], ready_.back());
        Thread* thread = ready_.back();
        ready_.pop_back();
        switch_to(*thread);
        if (failure_) std::rethrow_exception(failure_);
        host_.turn_is_over();
    }
}

void Schedule::wait(Waits what) {
    current->waits_for = std::move(what);
    switch_back();
}

void Schedule::wait_until(std::function<bool()> condition, Waits what) {
    if (condition()) return yield();
    conditions_.emplace_back(current, std::move(condition));
    wait(std::move(what));
}

void Schedule::look_at_conditions() {
    std::erase_if(conditions_, [&](const auto& entry) {
        if (!entry.second()) return false;
        wake(*entry.first);
        return true;
    });
}

void Schedule::wake(Thread& thread) {
    thread.waits_for = nullptr;
    ready_.push_back(&thread);
}

void Schedule::yield() {
    ready_.push_back(current);
    switch_back();
}

}  // namespace dsa::simulator
