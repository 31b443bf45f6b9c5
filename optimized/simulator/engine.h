// The hardware beside the threads: asynchronous copies and products wait here and are done late on purpose, at a
// point of the schedule drawn from its seed, or only when nobody can go on without them. So a kernel that does not
// wait finds what it should not: poison, or old data.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "optimized/simulator/schedule.h"

namespace dsa::simulator {

// Who asked for something, for sentences that are made later.
struct Origin {
    const Thread* thread;
    const char* what;  // the instruction
    Where where;
};

class Engine {
   public:
    struct Job {
        std::function<void()> work;
        std::vector<const Block*> uses;  // whose shared memory it still reads or writes
        Origin origin;
    };

    // `threads`: how many take turns; delays are drawn in rounds of that many turns.
    Engine(Schedule& schedule, std::size_t threads) : schedule_(schedule), threads_(threads) {}

    // Done at a time drawn from the seed, but not before `earliest`. Answers when.
    std::uint64_t later(Job job, std::uint64_t earliest = 0);
    // One turn has passed: does what is due. Whether there was something.
    bool tick();
    // Does the next one whose time has not come. Whether there was one.
    bool hurry();
    // The first job that uses the shared memory of `block`, if any.
    const Job* using_memory_of(const Block& block) const;

    // What has been issued and not yet been done, the next one first.
    std::vector<Origin> under_way() const;

   private:
    void do_first();

    Schedule& schedule_;
    std::size_t threads_;
    std::uint64_t now_ = 0;
    std::uint64_t count_ = 0;
    std::map<std::pair<std::uint64_t, std::uint64_t>, Job> jobs_;  // by time, then by age
};

}  // namespace dsa::simulator
