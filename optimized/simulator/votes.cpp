#include "optimized/simulator/votes.h"

#include <mutex>
#include <set>
#include <utility>

#include "optimized/simulator/block.h"

namespace dsa::simulator {

bool any_at_barrier(unsigned number, unsigned count, bool mine, Where where) {
    static std::mutex lock;  // blocks run on several threads of the host
    static std::set<std::pair<const Block*, unsigned>> brought;
    Block& block = *this_thread().block;
    const std::pair<const Block*, unsigned> here{&block, number};
    if (mine) {
        const std::lock_guard guard(lock);
        brought.insert(here);
    }
    block.named_barrier(number, count, true, where);
    bool any = false;
    {
        const std::lock_guard guard(lock);
        any = brought.count(here) != 0;
    }
    block.named_barrier(number, count, true, where);  // all have heard
    {
        const std::lock_guard guard(lock);
        brought.erase(here);
    }
    block.named_barrier(number, count, true, where);  // before it is used again
    return any;
}

}  // namespace dsa::simulator
