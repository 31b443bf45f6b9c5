// What a debugger asks the simulator, since it does not know fibers. docs/21-a-warp-specialised-kernel.md.
//
//     call (void)dsa_who()        whose turn it is
//     call (void)dsa_waiting()    who waits where, in the blocks of its cluster
//     call (void)dsa_under_way()  which copies and products have been issued and not yet been done
//
// Each prints one line or a few to standard output.
#include <cstdio>
#include <map>
#include <string>

#include "optimized/simulator/block.h"
#include "optimized/simulator/cluster.h"

namespace {

using namespace dsa::simulator;

// nullptr, and says so, where no kernel's thread is at work.
const Thread* at_work() {
    const Thread* thread = thread_at_work();
    if (thread == nullptr) std::puts("no thread of a kernel has the turn: stop at a line of a kernel first");
    return thread;
}

}  // namespace

extern "C" {

void dsa_who() {
    if (const Thread* thread = at_work())
        std::printf("block %s, thread %u: warp %u, lane %u\n", text_of(thread->block->index()).c_str(),
                    thread->number, thread->warp(), thread->lane());
    std::fflush(stdout);
}

void dsa_waiting() {
    if (const Thread* thread = at_work()) {
        Cluster& cluster = thread->block->cluster();
        for (unsigned rank = 0; rank < cluster.size(); ++rank)
            std::printf("block %s:%s\n", text_of(cluster.block(rank).index()).c_str(),
                        cluster.block(rank).who_waits().c_str());
    }
    std::fflush(stdout);
}

void dsa_under_way() {
    if (const Thread* thread = at_work()) {
        std::map<std::string, int> count;
        for (const Origin& origin : thread->block->cluster().engine.under_way())
            ++count[std::string(origin.what) + " of " + text_of(origin.where)];
        if (count.empty()) std::puts("nothing is under way");
        for (const auto& [operation, times] : count) std::printf("%d times %s\n", times, operation.c_str());
    }
    std::fflush(stdout);
}
}
