// What one thread of the operating system knows of the clusters that it runs: clocks of their threads and operations,
// and the shadows of the memory that they touched.
#pragma once

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "optimized/simulator/order.h"
#include "optimized/simulator/shadow.h"

namespace dsa::simulator {

class Worker {
   public:
    void grid_begins();
    void block_begins(const Block& block);
    // Whether it was the cluster's last.
    bool block_ends(const Block& block);
    // Throws Fault if what an operation, or another block, did in its shared memory may come later than this.
    void block_returns(const Block& block);
    void takes_turn(const Thread& thread);

    // An access of the thread whose turn it is.
    void access(const void* bytes, std::size_t count, Access access, const void* return_address);
    // One of another thread, or of an operation: nothing is skipped.
    void access(const Thread& by, const void* bytes, std::size_t count, Access access, Site site);
    void access(Operation operation, const void* bytes, std::size_t count, Access access);

    void release(const Thread& by, Round to);
    void acquire(const Thread& by, Round from);
    void fence_proxy_async(const Thread& by);
    Operation begins(const Thread& by, Proxy through, const char* what, Where where);
    void begins_also(Operation operation, const Thread& by);
    void release(Operation operation, Round to);
    void acquire(const Thread& by, Operation operation, Part part);

    // After a grid: throws Fault if what two workers' clusters did is a race.
    static void compare(const Worker& a, const Worker& b);

   private:
    static constexpr std::size_t page_bytes = 4096;
    struct Page {
        std::array<Cell, page_bytes / 4> cells{};
        bool changed = false;  // by a write or an atomic update
    };
    struct ThreadState {
        Clock clock = 0;
        Knowledge known, fenced;
        Clock fenced_until = 0;                 // of his own deeds
        std::vector<std::uint32_t> operations;  // slots that were his
    };
    // An operation's two sides are agents of their own: its reads may be known to be over before its writes are.
    struct Slot {
        Agent reads = 0, writes = 0;
        Clock clock = 0;
        bool async = false;
        Site site = 0;
        Joined before, fenced_before;
        std::array<Joined, 2> after;  // what who has waited for its reads, or for all of it, knows; made when asked
    };
    struct RoundState {
        std::uint64_t number = ~std::uint64_t{0};
        Joined known, fenced;
    };
    struct BlockState {
        const Block* block = nullptr;
        const std::byte* shared = nullptr;
        std::size_t bytes = 0;
        bool returned = false;
        std::unordered_map<Agent, Deed> visits;  // the last one of each agent but its own threads
        std::vector<Cell> cells;  // kept from block to block: clocks go on, so what is old is known by its clock
    };
    // A cluster that has run, for sentences.
    struct Past {
        Clock start;
        Dim3 first;
        unsigned threads;  // of a block
        unsigned blocks;
        std::vector<unsigned> thread_of_slot;
    };

    ThreadState& state(const Thread& thread) { return threads_[agent_of(thread)]; }
    Agent agent_of(const Thread& thread) const;
    Actor actor_of(const Thread& thread);
    RoundState& round(Round of);
    Page& page(std::uintptr_t number);
    void touch(const Actor& actor, Deed deed, const void* bytes, std::size_t count, Access access);
    void start_cluster(const Block& first);
    void note_visit(BlockState& of, Deed deed);
    [[noreturn]] void tell_of_visit(const BlockState& of, Deed deed) const;
    [[noreturn]] void tell(const Finding& finding, const Actor& actor, Deed now, Access access,
                           const std::byte* byte) const;
    std::string text_of_actor(Deed deed) const;
    const Past& past_of(Deed deed) const;

    // The turn: accesses that are repeated within it need not be looked at again.
    const Thread* thread_ = nullptr;
    const void* stack_ = nullptr;
    std::uint32_t turn_ = 0;
    struct Recent {
        std::uint64_t key = 0;
        std::uint32_t turn = 0;
    };
    std::array<Recent, 256> recent_{};
    struct KnownSite {
        const void* address = nullptr;
        Site site = 0;
    };
    std::array<KnownSite, 1024> sites_{};

    Clock start_ = 0;   // deeds up to here are those of clusters before this one
    Clock latest_ = 0;  // the largest clock of any
    unsigned living_ = 0;
    std::vector<BlockState> blocks_;
    std::vector<ThreadState> threads_;
    std::vector<Slot> slots_;
    std::unordered_map<const void*, std::array<RoundState, 2>> rounds_;
    Lists lists_, global_lists_;
    std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
    std::vector<std::unique_ptr<Page>> free_pages_;
    std::array<std::pair<std::uintptr_t, Page*>, 256> recent_pages_{};
    std::vector<Past> past_;
};

}  // namespace dsa::simulator
