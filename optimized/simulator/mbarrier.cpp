#include "optimized/simulator/mbarrier.h"

#include <algorithm>
#include <cstring>

#include "optimized/simulator/copies.h"

namespace dsa::simulator {
namespace {

Origin here(const char* what, Where where) { return {&this_thread(), what, where}; }

}  // namespace

std::string Mbarriers::name(const std::uint64_t* at) {
    const Block* block = cluster_.block_of(at, sizeof *at);
    if (block == nullptr) return "an mbarrier outside of shared memory";
    std::string text = "the mbarrier at byte " +
                       std::to_string(reinterpret_cast<const std::byte*>(at) - block->shared()) + " of shared memory";
    if (cluster_.size() > 1) text += " of block " + text_of(block->index());
    return text;
}

std::string Mbarriers::state(const Mbarrier& b) const {
    return "phase " + std::to_string(b.phase) + ", " + std::to_string(b.pending) + " of " +
           std::to_string(b.expected) + " arrivals and " + std::to_string(b.bytes) + " bytes pending";
}

void Mbarriers::seal(std::uint64_t* at, Mbarrier& barrier) {
    barrier.seal = ++seals_;
    std::memcpy(at, &barrier.seal, sizeof barrier.seal);
}

Mbarriers::Mbarrier& Mbarriers::find(std::uint64_t* at, const Origin& origin) {
    if (reinterpret_cast<std::uintptr_t>(at) % 8 != 0) fault(origin, "needs an mbarrier at a multiple of 8 bytes");
    const Block* block = cluster_.block_of(at, sizeof *at);
    if (block == nullptr) fault(origin, "needs an mbarrier in shared memory");
    if (block->living() == 0)
        fault(origin, "uses " + name(at) +
                          ", whose block has returned: blocks of a cluster must wait for each other "
                          "before they end");
    const auto found = all_.find(at);
    if (found == all_.end()) fault(origin, "uses " + name(at) + ", which nobody has initialised");
    std::uint64_t seal = 0;
    std::memcpy(&seal, at, sizeof seal);
    if (seal != found->second.seal) fault(origin, "finds that " + name(at) + " has been written over");
    return found->second;
}

void Mbarriers::init(std::uint64_t* at, std::uint32_t count, Where where) {
    const Origin origin = here("mbarrier.init", where);
    if (reinterpret_cast<std::uintptr_t>(at) % 8 != 0) fault(origin, "needs an mbarrier at a multiple of 8 bytes");
    if (!origin.thread->block->holds(at, sizeof *at)) fault(origin, "needs 8 bytes of the block's own shared memory");
    if (count == 0 || count > most_of_mbarrier)
        fault(origin, "needs a count of 1 to " + std::to_string(most_of_mbarrier) + " arrivals, not " +
                          std::to_string(count));
    if (all_.contains(at))
        fault(origin, "initialises " + name(at) + ", which is in use: end it first with mbarrier.inval");
    Mbarrier& b = all_[at];
    b.expected = b.pending = count;
    b.unfenced = origin.thread;
    order().writes(*origin.thread, at, sizeof *at, where);
    seal(at, b);
}

void Mbarriers::invalidate(std::uint64_t* at, Where where) {
    const Origin origin = here("mbarrier.inval", where);
    const Mbarrier& b = find(at, origin);
    if (!b.waiting.empty())
        fault(origin, "ends " + name(at) + " while " + std::to_string(b.waiting.size()) + " threads wait at it");
    order().writes(*origin.thread, at, sizeof *at, where);
    all_.erase(at);
    std::memset(at, 0xff, sizeof *at);
}

void Mbarriers::fence(const Thread& by) {
    for (auto& [at, b] : all_)
        if (b.unfenced == &by) b.unfenced = nullptr;
}

void Mbarriers::check_fenced(std::uint64_t* at, const Origin& origin) {
    const Mbarrier& b = find(at, origin);
    if (b.unfenced != nullptr)
        fault(origin, "uses " + name(at) + ", which thread " + std::to_string(b.unfenced->number) +
                          " has initialised without a fence: after mbarrier.init it needs fence.mbarrier_init");
}

void Mbarriers::expect_bytes(std::uint64_t* at, std::uint32_t bytes, Where where) {
    const Origin origin = here("mbarrier.expect_tx", where);
    Mbarrier& b = find(at, origin);
    order().reads(*origin.thread, at, sizeof *at, where);
    b.bytes += bytes;
    if (b.bytes > most_of_mbarrier)
        fault(origin, "makes " + name(at) + " expect " + std::to_string(b.bytes) + " bytes: it can count " +
                          std::to_string(most_of_mbarrier));
    seal(at, b);
}

void Mbarriers::take(std::uint64_t* at, Mbarrier& b, std::uint32_t count, const Origin& origin) {
    if (count == 0 || count > b.pending)
        fault(origin, "arrives " + std::to_string(count) + " times at " + name(at) + ", which is in " + state(b));
    b.pending -= count;
}

void Mbarriers::arrive(std::uint64_t* at, std::uint32_t count, Where where) {
    const Origin origin = here("mbarrier.arrive", where);
    if (!origin.thread->block->holds(at, sizeof *at)) check_fenced(at, origin);
    Mbarrier& b = find(at, origin);
    order().reads(*origin.thread, at, sizeof *at, where);
    order().release(*origin.thread, {at, b.phase});
    take(at, b, count, origin);
    seal(at, b);
    advance_if_complete(at, b, origin);
    cluster_.schedule.yield();
}

void Mbarriers::add_pending(std::uint64_t* at, Where where) {
    const Origin origin = here("cp.async.mbarrier.arrive", where);
    Mbarrier& b = find(at, origin);
    if (++b.pending > most_of_mbarrier) fault(origin, "makes the arrivals of " + name(at) + " too many to count");
    seal(at, b);
}

void Mbarriers::arrive_for(std::uint64_t* at, const Origin& origin, const std::vector<std::uint64_t>& operations) {
    Mbarrier& b = find(at, origin);
    for (const std::uint64_t operation : operations) order().release(operation, {at, b.phase});
    take(at, b, 1, origin);
    seal(at, b);
    advance_if_complete(at, b, origin);
}

void Mbarriers::complete_bytes(std::uint64_t* at, std::uint32_t bytes, const Origin& origin, Operation operation) {
    Mbarrier& b = find(at, origin);
    order().release(operation, {at, b.phase});
    b.bytes -= bytes;
    if (b.bytes < -most_of_mbarrier)
        fault(origin, "brings " + name(at) + " more bytes than it can count: " + state(b));
    if (b.pending == 0 && b.bytes < 0)
        fault(origin, "brings " + std::to_string(-b.bytes) + " bytes more to " + name(at) +
                          " than were expected in phase " + std::to_string(b.phase) +
                          ", in which all arrivals have come");
    seal(at, b);
    advance_if_complete(at, b, origin);
}

void Mbarriers::advance_if_complete(std::uint64_t* at, Mbarrier& b, const Origin& origin) {
    if (b.pending != 0 || b.bytes != 0) return;
    // A thread that waits by parity and has not looked since the phase before took two phases for none.
    if (!b.woken.empty())
        fault(origin, "completes phase " + std::to_string(b.phase) + " of " + name(at) + " while thread " +
                          std::to_string(b.woken.front()->number) +
                          " still waits for the phase before: by the parity it cannot tell them apart");
    for (Thread* thread : b.waiting) cluster_.schedule.wake(*thread);
    b.woken = std::move(b.waiting);
    b.waiting.clear();
    ++b.phase;
    b.pending = b.expected;
    seal(at, b);
}

bool Mbarriers::test(std::uint64_t* at, std::uint32_t parity, Where where) {
    const Origin origin = here("mbarrier.test_wait", where);
    Mbarrier& b = find(at, origin);
    if (parity > 1) fault(origin, "needs a parity of 0 or 1, not " + std::to_string(parity));
    order().reads(*origin.thread, at, sizeof *at, where);
    const bool complete = (b.phase & 1U) != parity;
    if (complete) order().acquire(*origin.thread, {at, b.phase - 1});
    cluster_.schedule.yield();
    return complete;
}

void Mbarriers::wait(std::uint64_t* at, std::uint32_t parity, Where where) {
    const Origin origin = here("mbarrier.try_wait", where);
    Mbarrier& b = find(at, origin);
    if (parity > 1) fault(origin, "needs a parity of 0 or 1, not " + std::to_string(parity));
    if (!origin.thread->block->holds(at, sizeof *at)) fault(origin, "can wait only in the block's own shared memory");
    order().reads(*origin.thread, at, sizeof *at, where);
    Thread& self = this_thread();
    const std::uint64_t phase = (b.phase & 1U) != parity ? b.phase - 1 : b.phase;
    if (phase == b.phase) {
        b.waiting.push_back(&self);
        cluster_.schedule.wait(
            [this, at, &b, where] { return name(at) + " (" + state(b) + ") at " + text_of(where); });
        std::erase(b.woken, &self);
    } else {
        cluster_.schedule.yield();
    }
    order().acquire(self, {at, phase});
}

}  // namespace dsa::simulator
