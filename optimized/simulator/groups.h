// Groups of asynchronous operations: what a thread issued since its last commit_group is one group, and wait_group<n>
// waits until all but the last n are done. PTX ISA, "cp.async.commit_group", "cp.async.bulk.commit_group",
// "wgmma.commit_group".
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace dsa::simulator {

// How far an operation is. The engine sets it, waiting threads look at it.
struct Progress {
    bool has_read = false;  // its sources may be overwritten
    bool done = false;
    std::uint64_t due = 0;        // when the engine means to do it
    std::uint64_t operation = 0;  // its name in order.h
};
using Ticket = std::shared_ptr<Progress>;

class Groups {
   public:
    void add(Ticket ticket) { open_.push_back(std::move(ticket)); }
    void commit() {
        closed_.push_back(std::move(open_));
        open_.clear();
    }
    std::size_t committed() const { return closed_.size(); }
    bool empty() const { return closed_.empty() && open_.empty(); }
    // Whether something was issued that no commit_group has closed.
    bool has_open() const { return !open_.empty(); }

    // The operations of all committed groups but the last `kept`.
    std::vector<Ticket> but_the_last(std::size_t kept) const {
        std::vector<Ticket> all;
        for (std::size_t i = 0; i + kept < closed_.size(); ++i)
            all.insert(all.end(), closed_[i].begin(), closed_[i].end());
        return all;
    }
    // Those that wait_group has waited for.
    void forget_but_the_last(std::size_t kept) {
        if (closed_.size() > kept) closed_.erase(closed_.begin(), closed_.end() - static_cast<std::ptrdiff_t>(kept));
    }
    std::vector<Ticket> all() const {
        std::vector<Ticket> tickets = but_the_last(0);
        tickets.insert(tickets.end(), open_.begin(), open_.end());
        return tickets;
    }

   private:
    std::vector<Ticket> open_;
    std::vector<std::vector<Ticket>> closed_;
};

}  // namespace dsa::simulator
