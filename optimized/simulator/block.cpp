#include "optimized/simulator/block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <sstream>

#include "optimized/simulator/cluster.h"
#include "optimized/simulator/order.h"
#include "optimized/simulator/races.h"
#include "optimized/simulator/wgmma.h"

namespace dsa::simulator {

std::string text_of(Where where) {
    const std::string file = where.file_name();
    return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(where.line());
}

std::string text_of(Dim3 d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

std::string place_of(const Thread& thread, Where where) {
    return "block " + text_of(thread.block->index()) + ", thread " + std::to_string(thread.number) + ", " +
           text_of(where) + ": ";
}

Block::Block(const Shape& shape, Dim3 index, unsigned rank, Cluster& cluster)
    : registers(shape.block.count()),
      shape_(shape),
      index_(index),
      rank_(rank),
      cluster_(cluster),
      threads_(shape.block.count()),
      living_(static_cast<unsigned>(threads_.size())),
      gone_((threads_.size() + 31) / 32),
      exchanges_of_all_lanes_(gone_.size()) {
    if (threads_.size() % 32 != 0) gone_.back() = ~0U << threads_.size() % 32;
    constexpr std::size_t alignment = 1024;
    // Nothing else lies nearer than `alignment`: who runs over an end is found out.
    shared_memory_ = std::make_unique<std::byte[]>(shape.shared_bytes + 3 * alignment);
    const auto address = reinterpret_cast<std::uintptr_t>(shared_memory_.get());
    shared_ = shared_memory_.get() + 2 * alignment - address % alignment;
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
    order().block_begins(*this);
}

Block::~Block() { order().block_ends(*this); }

bool Block::holds(const void* bytes, std::size_t count) const {
    const auto* first = static_cast<const std::byte*>(bytes);
    return first >= shared_ && first + count <= shared_ + shape_.shared_bytes;
}

std::string Block::place(Where where) const { return place_of(this_thread(), where); }

void Block::yield() { cluster_.schedule.yield(); }

void Block::has_returned(const Thread& thread) {
    --living_;
    gone_[thread.warp()] |= 1U << thread.lane();
    // Whoever waits for all threads waits no longer for this one.
    if (all_.arrived > 0 && all_.arrived == living_) complete(all_);
    if (living_ > 0) return;
    registers.check_at_the_end(*this);
    if (products) products->check_at_the_end(*this);
    if (const Engine::Job* job = cluster_.engine.using_memory_of(*this))
        throw Fault(place_of(*job->origin.thread, job->origin.where) + job->origin.what +
                    " is still under way in shared memory when all threads of block " + text_of(index_) +
                    " have returned: wait for it before the kernel ends");
    if (shape_.overlaps_previous && !waited_for_previous_)
        throw Fault("block " + text_of(index_) +
                    " was launched to overlap with the kernel ahead of it, and no thread has waited for that one "
                    "(griddepcontrol.wait)");
    block_returns(*this);
    // What others of the cluster still read here is no number.
    std::memset(shared_, 0xff, shape_.shared_bytes);
}

void Block::complete(Barrier& barrier) {
    for (Thread* thread : barrier.waiting) {
        order().acquire(*thread, {&barrier, barrier.round});
        if (thread != &this_thread()) cluster_.schedule.wake(*thread);
    }
    barrier.arrived = barrier.count = 0;
    ++barrier.round;
    barrier.waiting.clear();
    std::fill(barrier.lanes.begin(), barrier.lanes.end(), 0U);
}

void Block::check_whole_warps(const Barrier& barrier, unsigned number, Where where) const {
    for (std::size_t warp = 0; warp < barrier.lanes.size(); ++warp)
        if (const std::uint32_t lanes = barrier.lanes[warp]; lanes != 0 && lanes != 0xffffffffU)
            throw Fault(place(where) + "barrier " + std::to_string(number) + " is complete with " +
                        std::to_string(std::popcount(lanes)) + " lanes of warp " + std::to_string(warp) +
                        " only: all lanes of a warp must come to it");
}

void Block::named_barrier(unsigned number, unsigned count, bool waits, Where where) {
    Thread& self = this_thread();
    const std::string name = "barrier " + std::to_string(number);
    if (number > 15) throw Fault(place(where) + name + " does not exist: a block has barriers 0 to 15");
    if (count == 0 || count % 32 != 0 || count > threads_.size())
        throw Fault(place(where) + name + " must be of whole warps of the block; it is of " + std::to_string(count) +
                    " threads, and the block has " + std::to_string(threads_.size()));
    if (number == 0 && all_.arrived > 0)
        throw Fault(place(where) + "barrier 0 is in use by __syncthreads: take one of 1 to 15");
    Barrier& b = barriers_[number];
    b.lanes.resize(gone_.size());
    if (b.arrived > 0 && b.count != count)
        throw Fault(place(where) + name + " is of " + std::to_string(b.count) +
                    " threads to those who came, and of " + std::to_string(count) + " to this one");
    if ((b.lanes[self.warp()] >> self.lane() & 1U) != 0)
        throw Fault(place(where) + "comes to " + name + " a second time before it is complete (" +
                    std::to_string(b.arrived) + " of " + std::to_string(count) + " threads have come)");
    b.count = count;
    b.lanes[self.warp()] |= 1U << self.lane();
    if (waits) b.waiting.push_back(&self);
    order().release(self, {&b, b.round});
    if (++b.arrived == count) {
        check_whole_warps(b, number, where);
        complete(b);
        return yield();
    }
    if (!waits) return yield();
    cluster_.schedule.wait([&b, number, where] {
        return "barrier " + std::to_string(number) + " (" + std::to_string(b.arrived) + " of " +
               std::to_string(b.count) + " threads have come) at " + text_of(where);
    });
}

bool Block::any_at_barrier(unsigned number, unsigned count, bool mine, Where where) {
    if (mine) barriers_[number].any = true;
    named_barrier(number, count, true, where);
    const bool any = barriers_[number].any;
    named_barrier(number, count, true, where);  // all have heard
    barriers_[number].any = false;
    named_barrier(number, count, true, where);  // before it is used again
    return any;
}

void Block::barrier_of_all(Where where) {
    const auto named = barriers_.find(0);
    if (named != barriers_.end() && named->second.arrived > 0)
        throw Fault(place(where) + "__syncthreads is barrier 0, which " + std::to_string(named->second.arrived) +
                    " threads have come to by its number: take one of 1 to 15 for them");
    Thread& self = this_thread();
    order().release(self, {&all_, all_.round});
    all_.waiting.push_back(&self);
    if (++all_.arrived == living_) {
        complete(all_);
        return yield();
    }
    cluster_.schedule.wait([where] { return "__syncthreads at " + text_of(where); });
}

void Block::exchange(std::uint32_t mask, std::uint64_t value, const char* what, Where where, const Work& work,
                     bool orders) {
    Thread& self = this_thread();
    if ((mask >> self.lane() & 1U) == 0)
        throw Fault(place(where) + what + " is called by lane " + std::to_string(self.lane()) +
                    ", which its mask does not name");
    if ((mask & gone_[self.warp()]) != 0) tell_who_is_gone(mask & gone_[self.warp()], what, where);
    Exchange& e =
        mask == 0xffffffffU ? exchanges_of_all_lanes_[self.warp()] : exchanges_of_some_[{self.warp(), mask}];
    if (e.arrived != 0 && std::strcmp(e.what, what) != 0)
        throw Fault(place(where) + what + " meets lanes that are at " + e.what +
                    ": a warp's lanes must call the same");
    std::uint64_t(&values)[32] = e.values[e.round % 2];
    e.what = what;
    e.arrived |= 1U << self.lane();
    values[self.lane()] = value;
    if (orders) order().release(self, {&e, e.round});
    if (e.arrived != mask) {
        // One pointer, so that nothing is allocated for words that are said only at a deadlock.
        self.exchanges = what;
        self.exchanges_at = where;
        return cluster_.schedule.wait(
            [&self] { return std::string(self.exchanges) + " at " + text_of(self.exchanges_at); });
    }
    if (work != nullptr) work(values);
    Thread* const lanes = &threads_[self.warp() * 32];
    for (unsigned lane = 0; lane < 32; ++lane) {
        if ((mask >> lane & 1U) == 0) continue;
        lanes[lane].received = values;
        if (orders) order().acquire(lanes[lane], {&e, e.round});
        if (&lanes[lane] != &self) cluster_.schedule.wake(lanes[lane]);
    }
    e.arrived = 0;
    ++e.round;
    yield();
}

void Block::tell_who_is_gone(std::uint32_t mask, const char* what, Where where) const {
    const auto lane = static_cast<unsigned>(std::countr_zero(mask));
    throw Fault(place(where) + what + " waits for lane " + std::to_string(lane) +
                (this_thread().warp() * 32 + lane < threads_.size() ? ", which has returned"
                                                                    : ", which the block does not have"));
}

void Block::waits_for_previous() { waited_for_previous_ = true; }

std::string Block::who_waits() const {
    // Threads that wait for the same are told together.
    std::map<std::string, std::vector<unsigned>> waiting;
    for (const Thread& thread : threads_)
        if (!thread.finished && thread.waits_for) waiting[thread.waits_for()].push_back(thread.number);
    std::size_t can_go_on = living_;
    std::ostringstream text;
    for (const auto& [what, numbers] : waiting) {
        text << " " << numbers.size() << (numbers.size() == 1 ? " thread waits" : " threads wait") << " at " << what
             << " (";
        for (std::size_t i = 0; i < numbers.size() && i < 6; ++i) text << (i > 0 ? ", " : "") << numbers[i];
        text << (numbers.size() > 6 ? ", ..." : "") << ").";
        can_go_on -= numbers.size();
    }
    if (can_go_on > 0) text << " " << can_go_on << " can go on.";
    if (living_ < threads_.size()) text << " " << threads_.size() - living_ << " have returned.";
    return text.str();
}

}  // namespace dsa::simulator
