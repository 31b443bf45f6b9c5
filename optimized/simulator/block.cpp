#include "optimized/simulator/block.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sstream>
#include <thread>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace dsa::simulator {
namespace {

constexpr std::size_t stack_bytes = 256 << 10;
constexpr std::size_t guard_bytes = 4096;  // below a stack: running over its end stops at once

thread_local Thread* current = nullptr;

// Stacks are kept for the next block.
class Stacks {
   public:
    void* take() {
        if (!free_.empty()) {
            void* stack = free_.back();
            free_.pop_back();
            return stack;
        }
        void* memory = mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        mprotect(memory, guard_bytes, PROT_NONE);
        return static_cast<std::byte*>(memory) + guard_bytes;
    }
    void give_back(void* stack) { free_.push_back(stack); }
    ~Stacks() {
        for (void* stack : free_) munmap(static_cast<std::byte*>(stack) - guard_bytes, stack_bytes + guard_bytes);
    }

   private:
    std::vector<void*> free_;
};
thread_local Stacks stacks;

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

std::string text_of(Where where) {
    const std::string file = where.file_name();
    return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(where.line());
}

std::string text_of(Dim3 d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

std::uint64_t seed_of_schedule() {
    const char* text = std::getenv("DSA_SIMULATOR_SEED");
    return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

}  // namespace

Thread& this_thread() { return *current; }

Block::Block(const Shape& shape, Dim3 index, std::uint64_t seed)
    : shape_(shape), index_(index), threads_(shape.block.count()) {
    // Blocks of one seed take turns differently from each other.
    const std::uint64_t own =
        seed * 0x9e3779b97f4a7c15 + index.x + 65537 * (index.y + 65537 * std::uint64_t{index.z});
    random_.seed(static_cast<std::uint32_t>(own ^ (own >> 32)) | 1U);
    constexpr std::size_t alignment = 1024;
    shared_memory_ = std::make_unique<std::byte[]>(shape.shared_bytes + alignment);
    const auto address = reinterpret_cast<std::uintptr_t>(shared_memory_.get());
    shared_ = shared_memory_.get() + (alignment - address % alignment) % alignment;
    std::memset(shared_, 0xff, shape.shared_bytes);
    unsigned number = 0;
    for (unsigned z = 0; z < shape.block.z; ++z)
        for (unsigned y = 0; y < shape.block.y; ++y)
            for (unsigned x = 0; x < shape.block.x; ++x) {
                Thread& thread = threads_[number];
                thread.index = {x, y, z};
                thread.number = number++;
                thread.block = this;
            }
}

Block::~Block() {
    for (Thread& thread : threads_)
        if (thread.stack_ != nullptr) stacks.give_back(thread.stack_);
}

void Block::enter(unsigned high, unsigned low) {
    auto* thread = reinterpret_cast<Thread*>((std::uintptr_t{high} << 32) | low);
    Block& block = *thread->block;
    arrived_on(nullptr, &block.scheduler_bottom_, &block.scheduler_size_);
    try {
        (*block.kernel_)();
    } catch (...) {
        if (!block.failure_) block.failure_ = std::current_exception();
    }
    thread->finished = true;
    --block.living_;
    // Whoever waits for all threads waits no longer for this one.
    if (block.all_.arrived > 0 && block.all_.arrived == block.living_) block.complete(block.all_);
    leaving_for(nullptr, block.scheduler_bottom_, block.scheduler_size_);  // nullptr: this stack is done with
    setcontext(&block.scheduler_);
}

void Block::switch_to(Thread& thread) {
    current = &thread;
    void* own = nullptr;
    leaving_for(&own, thread.stack_, stack_bytes);
    swapcontext(&scheduler_, &thread.context_);
    arrived_on(own, nullptr, nullptr);
    current = nullptr;
}

void Block::switch_back() {
    Thread& thread = *current;
    void* own = nullptr;
    leaving_for(&own, scheduler_bottom_, scheduler_size_);
    swapcontext(&thread.context_, &scheduler_);
    arrived_on(own, &scheduler_bottom_, &scheduler_size_);
}

void Block::run(const std::function<void()>& kernel) {
    kernel_ = &kernel;
    living_ = static_cast<unsigned>(threads_.size());
    for (Thread& thread : threads_) {
        thread.stack_ = stacks.take();
        getcontext(&thread.context_);
        thread.context_.uc_stack.ss_sp = thread.stack_;
        thread.context_.uc_stack.ss_size = stack_bytes;
        thread.context_.uc_link = nullptr;
        const auto address = reinterpret_cast<std::uintptr_t>(&thread);
        makecontext(&thread.context_, reinterpret_cast<void (*)()>(&Block::enter), 2,
                    static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
        ready_.push_back(&thread);
    }
    while (living_ > 0) {
        if (ready_.empty()) report_deadlock();
        const std::size_t pick = random_() % ready_.size();
        std::swap(ready_[pick], ready_.back());
        Thread* thread = ready_.back();
        ready_.pop_back();
        switch_to(*thread);
        if (failure_) std::rethrow_exception(failure_);
    }
}

std::string Block::place(Where where) const {
    return "block " + text_of(index_) + ", thread " + std::to_string(current->number) + ", " + text_of(where) + ": ";
}

void Block::wait(std::string what) {
    current->waits_for = std::move(what);
    switch_back();
}

void Block::wake(Thread& thread) {
    thread.waits_for.clear();
    ready_.push_back(&thread);
}

void Block::yield() {
    ready_.push_back(current);
    switch_back();
}

void Block::complete(Barrier& barrier) {
    for (Thread* thread : barrier.waiting) wake(*thread);
    barrier = Barrier{};
}

void Block::barrier(unsigned number, unsigned count, const char* what, Where where) {
    if (count == 0 || count % 32 != 0 || count > threads_.size())
        throw Fault(place(where) + what + " must be of whole warps of the block; it is of " + std::to_string(count) +
                    " threads");
    Barrier& b = barriers_[number];
    if (b.arrived > 0 && b.count != count)
        throw Fault(place(where) + what + " " + std::to_string(number) + " is waited at by " +
                    std::to_string(b.count) + " threads, and now by " + std::to_string(count));
    b.count = count;
    b.waiting.push_back(current);
    if (++b.arrived == count) {
        b.waiting.pop_back();
        complete(b);
        return yield();
    }
    wait(std::string(what) + " " + std::to_string(number) + " (" + std::to_string(count) + " threads) at " +
         text_of(where));
}

void Block::barrier_of_all(Where where) {
    all_.waiting.push_back(current);
    if (++all_.arrived == living_) {
        all_.waiting.pop_back();
        complete(all_);
        return yield();
    }
    wait("__syncthreads at " + text_of(where));
}

void Block::exchange(std::uint32_t mask, std::uint64_t value, const char* what, Where where, Work work) {
    Thread& self = *current;
    if ((mask >> self.lane() & 1U) == 0)
        throw Fault(place(where) + what + " is called by lane " + std::to_string(self.lane()) +
                    ", which its mask does not name");
    const unsigned first = self.warp() * 32;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if ((mask >> lane & 1U) == 0) continue;
        if (first + lane >= threads_.size() || threads_[first + lane].finished)
            throw Fault(
                place(where) + what + " waits for lane " + std::to_string(lane) +
                (first + lane >= threads_.size() ? ", which the block does not have" : ", which has returned"));
    }
    const std::pair key{self.warp(), mask};
    Exchange& e = exchanges_[key];
    if (e.arrived != 0 && std::strcmp(e.what, what) != 0)
        throw Fault(place(where) + what + " meets lanes that are at " + e.what +
                    ": a warp's lanes must call the same");
    e.what = what;
    e.arrived |= 1U << self.lane();
    e.values[self.lane()] = value;
    if (e.arrived != mask) return wait(std::string(what) + " at " + text_of(where));
    if (work != nullptr) work(e.values);
    for (unsigned lane = 0; lane < 32; ++lane) {
        if ((mask >> lane & 1U) == 0) continue;
        Thread& thread = threads_[first + lane];
        std::memcpy(thread.received, e.values, sizeof e.values);
        if (&thread != &self) wake(thread);
    }
    exchanges_.erase(key);
    yield();
}

void Block::report_deadlock() {
    // Threads that wait for the same are told together.
    std::map<std::string, std::vector<unsigned>> waiting;
    for (const Thread& thread : threads_)
        if (!thread.finished) waiting[thread.waits_for].push_back(thread.number);
    std::ostringstream text;
    text << "block " << text_of(index_) << " is deadlocked: no thread can go on.";
    for (const auto& [what, numbers] : waiting) {
        text << " " << numbers.size() << (numbers.size() == 1 ? " thread waits" : " threads wait") << " at " << what
             << " (";
        for (std::size_t i = 0; i < numbers.size() && i < 6; ++i) text << (i > 0 ? ", " : "") << numbers[i];
        text << (numbers.size() > 6 ? ", ..." : "") << ").";
    }
    if (living_ < threads_.size()) text << " " << threads_.size() - living_ << " have returned.";
    throw Fault(text.str());
}

void run_grid(const Shape& shape, const std::function<void()>& kernel) {
    const std::uint64_t count = shape.grid.count();
    const std::uint64_t seed = seed_of_schedule();
    std::atomic<std::uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto worker = [&] {
        for (std::uint64_t i = next++; i < count && !failed; i = next++) {
            const Dim3 index(static_cast<unsigned>(i % shape.grid.x),
                             static_cast<unsigned>(i / shape.grid.x % shape.grid.y),
                             static_cast<unsigned>(i / shape.grid.x / shape.grid.y));
            try {
                Block(shape, index, seed).run(kernel);
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!failure) failure = std::current_exception();
                failed = true;
            }
        }
    };
    const std::uint64_t processors = std::max(1U, std::thread::hardware_concurrency());
    std::vector<std::thread> others;
    for (std::uint64_t i = 1; i < std::min(processors, count); ++i) others.emplace_back(worker);
    worker();
    for (std::thread& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace dsa::simulator
