// mbarriers: the pending arrivals and bytes of a phase, and who waits for it. PTX ISA, "mbarrier".
//
// The 8 bytes in shared memory hold a seal that changes with every change of the object, so that a kernel which
// writes over them is found out; the counts are kept beside.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "optimized/simulator/engine.h"
#include "optimized/simulator/order.h"

namespace dsa::simulator {

class Cluster;

inline constexpr std::int64_t most_of_mbarrier = (1 << 20) - 1;  // arrivals, and bytes under way

class Mbarriers {
   public:
    explicit Mbarriers(Cluster& cluster) : cluster_(cluster) {}

    // What threads do. `at` may lie in the shared memory of another block of the cluster where the PTX allows it.
    void init(std::uint64_t* at, std::uint32_t count, Where where);
    void invalidate(std::uint64_t* at, Where where);
    // fence.mbarrier_init, fence.proxy.async: what this thread has initialised may be used from elsewhere.
    void fence(const Thread& by);
    void expect_bytes(std::uint64_t* at, std::uint32_t bytes, Where where);
    void arrive(std::uint64_t* at, std::uint32_t count, Where where);
    bool test(std::uint64_t* at, std::uint32_t parity, Where where);
    void wait(std::uint64_t* at, std::uint32_t parity, Where where);
    // cp.async.mbarrier.arrive: later arrives once, or counts itself in first.
    void add_pending(std::uint64_t* at, Where where);

    // Before an asynchronous operation is issued: the object is there and has been fenced.
    void check_fenced(std::uint64_t* at, const Origin& origin);
    // What operations do when they are done.
    void complete_bytes(std::uint64_t* at, std::uint32_t bytes, const Origin& origin, Operation operation);
    void arrive_for(std::uint64_t* at, const Origin& origin, const std::vector<std::uint64_t>& operations);

   private:
    struct Mbarrier {
        std::int64_t expected = 0;  // arrivals of a phase
        std::int64_t pending = 0;   // arrivals of this phase that have not come
        std::int64_t bytes =
            0;  // expected bytes that have not come; below 0 where they came before they were expected
        std::uint64_t phase = 0;
        std::uint64_t seal = 0;
        const Thread* unfenced = nullptr;  // who has initialised it, until that thread fences
        std::vector<Thread*> waiting;
        std::vector<Thread*> woken;  // they waited for the phase before this one and have not had their turn yet
    };

    Mbarrier& find(std::uint64_t* at, const Origin& origin);
    void seal(std::uint64_t* at, Mbarrier& barrier);
    void take(std::uint64_t* at, Mbarrier& barrier, std::uint32_t count, const Origin& origin);
    void advance_if_complete(std::uint64_t* at, Mbarrier& barrier, const Origin& origin);
    std::string name(const std::uint64_t* at);
    std::string state(const Mbarrier& barrier) const;

    Cluster& cluster_;
    std::uint64_t seals_ = 0x5ea1'0000'0000'0000;
    std::map<const std::uint64_t*, Mbarrier> all_;
};

}  // namespace dsa::simulator
