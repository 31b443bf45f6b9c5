// The blocks of a cluster, which run together: one schedule for all their threads, one engine beside them, the
// cluster's barrier, and the way from one block's shared memory to another's. A kernel without clusters runs as
// clusters of one block.
#pragma once

#include <deque>

#include "optimized/simulator/block.h"
#include "optimized/simulator/engine.h"
#include "optimized/simulator/mbarrier.h"

namespace dsa::simulator {

class Cluster final : private Schedule::Host {
   public:
    // first: the index of its block of rank 0. seed: of the order in which threads take turns.
    Cluster(const Shape& shape, Dim3 first, std::uint64_t seed);
    ~Cluster() override;

    void run(const std::function<void()>& kernel);

    unsigned size() const { return static_cast<unsigned>(blocks_.size()); }
    Block& block(unsigned rank) { return blocks_[rank]; }
    // The block whose shared memory holds these bytes; nullptr if none does.
    Block* block_of(const void* bytes, std::size_t count);
    // Where block `rank` has in its shared memory what the caller's block has at `mine`. PTX ISA, "mapa".
    void* of_rank(const void* mine, unsigned rank, Where where);

    // barrier.cluster.arrive and .wait
    void arrive(bool releases, Where where);
    void wait(Where where);

    Schedule schedule;
    Engine engine;
    Mbarriers mbarriers;
    // Which lane elect.sync elects: always the same, and not the first one in every cluster.
    unsigned elected_lane = 0;

   private:
    void turn_is_over() override;
    bool help() override;
    void has_returned(Thread& thread) override;
    [[noreturn]] void report_deadlock() override;
    unsigned living() const;
    void complete_barrier();

    std::deque<Block> blocks_;  // a block never moves
    unsigned arrived_ = 0;
    std::uint64_t round_ = 0;
    std::map<const Thread*, std::uint64_t> came_;  // the round that a thread has arrived in and not yet waited for
    std::vector<Thread*> waiting_;
};

// Runs all blocks of a grid, spread over the processors. DSA_SIMULATOR_SEED seeds the schedule (default 1).
void run_grid(const Shape& shape, const std::function<void()>& kernel);

}  // namespace dsa::simulator
