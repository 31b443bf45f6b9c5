#include "optimized/simulator/cluster.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "optimized/simulator/order.h"
#include "optimized/simulator/wgmma.h"

namespace dsa::simulator {
namespace {

std::uint64_t seed_of_schedule() {
    const char* text = std::getenv("DSA_SIMULATOR_SEED");
    return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

// Clusters of one seed take turns differently from each other.
std::uint64_t mixed(std::uint64_t seed, Dim3 index) {
    return seed * 0x9e3779b97f4a7c15 + index.x + 65537 * (index.y + 65537 * std::uint64_t{index.z});
}

}  // namespace

Cluster::Cluster(const Shape& shape, Dim3 first, std::uint64_t seed)
    : schedule(*this, mixed(seed, first)),
      engine(schedule, shape.block.count() * shape.cluster),
      mbarriers(*this),
      elected_lane(static_cast<unsigned>(mixed(seed, first) >> 11) % 32) {
    for (unsigned rank = 0; rank < shape.cluster; ++rank)
        blocks_.emplace_back(shape, Dim3(first.x + rank, first.y, first.z), rank, *this);
    for (Block& block : blocks_)
        for (Thread& thread : block.threads()) schedule.add(thread);
}

Cluster::~Cluster() = default;

void Cluster::run(const std::function<void()>& kernel) {
    schedule.run(kernel);
    // What is still under way uses no shared memory: it is on its way to global memory.
    while (engine.hurry()) {
    }
}

Block* Cluster::block_of(const void* bytes, std::size_t count) {
    for (Block& block : blocks_)
        if (block.holds(bytes, count)) return &block;
    return nullptr;
}

void* Cluster::of_rank(const void* mine, unsigned rank, Where where) {
    const Block& own = *this_thread().block;
    if (rank >= size())
        throw Fault(own.place(where) + "mapa asks for block " + std::to_string(rank) + " of a cluster of " +
                    std::to_string(size()));
    if (!own.holds(mine, 1)) throw Fault(own.place(where) + "mapa needs an address in the block's own shared memory");
    if (blocks_[rank].living() == 0)
        throw Fault(own.place(where) + "mapa asks for the shared memory of block " + text_of(blocks_[rank].index()) +
                    ", which has returned: blocks of a cluster must wait for each other before they end");
    return blocks_[rank].shared() + (static_cast<const std::byte*>(mine) - own.shared());
}

unsigned Cluster::living() const {
    unsigned sum = 0;
    for (const Block& block : blocks_) sum += block.living();
    return sum;
}

void Cluster::arrive(bool releases, Where where) {
    Thread& self = this_thread();
    if (came_.contains(&self))
        throw Fault(place_of(self, where) +
                    "barrier.cluster.arrive follows another one without barrier.cluster.wait between");
    came_[&self] = round_;
    if (releases) order().release(self, {&round_, round_});
    if (++arrived_ == living()) complete_barrier();
    schedule.yield();
}

void Cluster::wait(Where where) {
    Thread& self = this_thread();
    const auto came = came_.find(&self);
    if (came == came_.end())
        throw Fault(place_of(self, where) + "barrier.cluster.wait comes without barrier.cluster.arrive before it");
    const std::uint64_t round = came->second;
    came_.erase(came);
    if (round == round_) {
        waiting_.push_back(&self);
        schedule.wait([this, where] {
            return "barrier.cluster.wait (" + std::to_string(arrived_) + " of " + std::to_string(living()) +
                   " threads of the cluster have arrived) at " + text_of(where);
        });
    }
    order().acquire(self, {&round_, round});
}

void Cluster::complete_barrier() {
    for (Thread* thread : waiting_) schedule.wake(*thread);
    waiting_.clear();
    arrived_ = 0;
    ++round_;
}

void Cluster::turn_is_over() {
    if (engine.tick()) schedule.look_at_conditions();
}

bool Cluster::help() { return engine.hurry(); }

void Cluster::has_returned(Thread& thread) {
    if (came_.contains(&thread) && came_[&thread] == round_) --arrived_;
    thread.block->has_returned(thread);
    if (arrived_ > 0 && arrived_ == living()) complete_barrier();
}

void Cluster::report_deadlock() {
    std::string text;
    for (const Block& block : blocks_) {
        if (block.living() == 0) continue;
        text += (text.empty() ? "block " : " Block ") + text_of(block.index()) +
                (text.empty() ? " is deadlocked: no thread can go on." : ":") + block.who_waits();
        if (block.products) text += block.products->who_is_missing(block);
    }
    throw Fault(text);
}

void run_grid(const Shape& shape, const std::function<void()>& kernel) {
    const std::uint64_t in_x = shape.grid.x / shape.cluster;
    const std::uint64_t count = in_x * shape.grid.y * shape.grid.z;
    const std::uint64_t seed = seed_of_schedule();
    std::atomic<std::uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto worker = [&] {
        for (std::uint64_t i = next++; i < count && !failed; i = next++) {
            const Dim3 first(static_cast<unsigned>(i % in_x * shape.cluster),
                             static_cast<unsigned>(i / in_x % shape.grid.y),
                             static_cast<unsigned>(i / in_x / shape.grid.y));
            try {
                Cluster(shape, first, seed).run(kernel);
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!failure) failure = std::current_exception();
                failed = true;
            }
        }
    };
    const std::uint64_t processors = std::max(1U, std::thread::hardware_concurrency());
    order().grid_begins();
    std::vector<std::thread> others;
    for (std::uint64_t i = 1; i < std::min(processors, count); ++i) others.emplace_back(worker);
    worker();
    for (std::thread& other : others) other.join();
    order().grid_ends(failure != nullptr);
    if (failure) std::rethrow_exception(failure);
}

}  // namespace dsa::simulator
