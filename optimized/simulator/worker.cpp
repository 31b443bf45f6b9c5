#include "optimized/simulator/worker.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "optimized/simulator/block.h"
#include "optimized/simulator/races.h"

namespace dsa::simulator {
namespace {

// Where not to go: first byte, and the number of bytes.
struct OffLimits {
    std::mutex mutex;
    std::map<std::uintptr_t, std::size_t> all;
};
OffLimits& limits() {
    static OffLimits all;
    return all;
}

constexpr Clock clock_to_begin_anew = Deed::last_clock / 2;

}  // namespace

void put_off_limits(const void* bytes, std::size_t count) {
    const std::lock_guard lock(limits().mutex);
    limits().all[reinterpret_cast<std::uintptr_t>(bytes)] = count;
}
void allow_again(const void* bytes) {
    const std::lock_guard lock(limits().mutex);
    limits().all.erase(reinterpret_cast<std::uintptr_t>(bytes));
}

void Worker::grid_begins() {
    for (auto& [number, page] : pages_) free_pages_.push_back(std::move(page));
    pages_.clear();
    recent_pages_ = {};
    global_lists_.clear();
    past_.clear();
    if (latest_ < clock_to_begin_anew) return;
    start_ = latest_ = 0;
    for (BlockState& block : blocks_) block.cells.clear();
    lists_.clear();
}

inline Agent Worker::agent_of(const Thread& thread) const {
    return thread.block->rank() * static_cast<Agent>(thread.block->threads().size()) + thread.number;
}

void Worker::start_cluster(const Block& first) {
    start_ = latest_;
    const std::size_t threads = first.threads().size() * first.shape().cluster;
    if (threads + 64 > Deed::most_agents) throw Fault("a cluster has more threads than the simulator can tell apart");
    latest_ = start_ + 1;
    threads_.assign(threads, ThreadState());
    for (ThreadState& thread : threads_) thread.clock = latest_;
    slots_.clear();
    rounds_.clear();
    past_.push_back(
        {start_, first.index(), static_cast<unsigned>(first.threads().size()), first.shape().cluster, {}});
}

void Worker::block_begins(const Block& block) {
    if (living_++ == 0) start_cluster(block);
    if (blocks_.size() <= block.rank()) blocks_.resize(block.rank() + 1);
    BlockState& state = blocks_[block.rank()];
    state.block = &block;
    state.shared = block.shared();
    state.bytes = block.shape().shared_bytes;
    state.returned = false;
    state.visits.clear();
    if (state.cells.size() < (state.bytes + 3) / 4) state.cells.resize((state.bytes + 3) / 4);
}

bool Worker::block_ends(const Block& block) {
    blocks_[block.rank()].shared = nullptr;
    blocks_[block.rank()].bytes = 0;
    thread_ = nullptr;
    return --living_ == 0;
}

void Worker::block_returns(const Block& block) {
    BlockState& state = blocks_[block.rank()];
    state.returned = true;
    const auto first = threads_.begin() + static_cast<std::ptrdiff_t>(agent_of(block.threads().front()));
    const auto end = first + static_cast<std::ptrdiff_t>(block.threads().size());
    // The memory is there as long as one thread is: it is enough that one knows of the visit.
    for (const auto& [agent, deed] : state.visits)
        if (std::none_of(first, end, [&, agent = agent, deed = deed](const ThreadState& thread) {
                return covers(thread.known, agent, deed.clock());
            }))
            tell_of_visit(state, deed);
}

void Worker::note_visit(BlockState& of, Deed deed) {
    const Past& here = past_.back();
    const Agent agent = deed.agent();
    if (agent / here.threads == of.block->rank()) return;
    if (of.returned) tell_of_visit(of, deed);
    of.visits[agent] = deed;
}

void Worker::takes_turn(const Thread& thread) {
    thread_ = &thread;
    stack_ = thread.stack();
    ++turn_;
}

inline Actor Worker::actor_of(const Thread& thread) {
    const ThreadState& own = state(thread);
    return {agent_of(thread), own.clock, false, {own.known.get(), nullptr}, {}};
}

void Worker::access(const void* bytes, std::size_t count, Access access, const void* return_address) {
    if (thread_ == nullptr) return;
    const auto at = reinterpret_cast<std::uintptr_t>(bytes);
    if (at - reinterpret_cast<std::uintptr_t>(stack_) < stack_bytes) return;
    // Of two alike in one turn the second tells nothing, nor does a read after the thread's own write.
    Recent& recent = recent_[(at >> 2 ^ at >> 12) % recent_.size()];
    const std::uint64_t key = at << 10 | (count < 255 ? count : 255) << 2;
    if (recent.turn == turn_ && (recent.key & ~std::uint64_t{3}) == key && access != Access::atomic && count < 255 &&
        (recent.key & 3U) >= static_cast<unsigned>(access))
        return;
    KnownSite& known = sites_[(reinterpret_cast<std::uintptr_t>(return_address) >> 1) % sites_.size()];
    if (known.address != return_address) known = {return_address, site_of(return_address)};
    const Actor actor = actor_of(*thread_);
    touch(actor, Deed(actor.agent, actor.clock, access == Access::atomic, false, known.site), bytes, count, access);
    if (access != Access::atomic) recent = {key | static_cast<unsigned>(access), turn_};
}

void Worker::access(const Thread& by, const void* bytes, std::size_t count, Access access, Site site) {
    ++turn_;
    const Actor actor = actor_of(by);
    touch(actor, Deed(actor.agent, actor.clock, access == Access::atomic, false, site), bytes, count, access);
}

void Worker::access(Operation operation, const void* bytes, std::size_t count, Access access) {
    ++turn_;
    Slot& slot = slots_[operation];
    const Agent agent = access == Access::read ? slot.reads : slot.writes;
    const Actor actor{agent, slot.clock, slot.async, slot.before.view(), slot.fenced_before.view()};
    touch(actor, Deed(agent, slot.clock, false, slot.async, slot.site), bytes, count, access);
}

Worker::Page& Worker::page(std::uintptr_t number) {
    auto& recent = recent_pages_[number % recent_pages_.size()];
    if (recent.first == number && recent.second != nullptr) return *recent.second;
    std::unique_ptr<Page>& page = pages_[number];
    if (page == nullptr) {
        if (free_pages_.empty()) {
            page = std::make_unique<Page>();
        } else {
            page = std::move(free_pages_.back());
            free_pages_.pop_back();
            page->cells.fill(Cell{});
            page->changed = false;
        }
        const std::uintptr_t first = number * page_bytes;
        const std::lock_guard lock(limits().mutex);
        auto it = limits().all.upper_bound(first);
        if (it != limits().all.begin()) --it;
        for (; it != limits().all.end() && it->first < first + page_bytes; ++it) {
            const std::uintptr_t end = std::min(it->first + it->second, first + page_bytes);
            for (std::uintptr_t byte = std::max(it->first, first); byte < end; ++byte)
                page->cells[(byte - first) / 4].written[byte % 4] = off_limits();
        }
    }
    recent = {number, page.get()};
    return *page;
}

void Worker::touch(const Actor& actor, Deed deed, const void* bytes, std::size_t count, Access access) {
    const auto* at = static_cast<const std::byte*>(bytes);
    BlockState* shared = nullptr;
    constexpr std::ptrdiff_t guard = 1024;
    for (BlockState& block : blocks_) {
        if (block.shared == nullptr) continue;
        const std::ptrdiff_t offset = at - block.shared;
        if (offset < -guard || offset >= static_cast<std::ptrdiff_t>(block.bytes) + guard) continue;
        if (offset < 0 || offset + count > block.bytes) {
            const auto outside = offset < 0 ? 0 : block.bytes - std::min<std::size_t>(offset, block.bytes);
            tell({Kind::beyond, Deed(), 0}, actor, deed, access, at + outside);
        }
        shared = &block;
        break;
    }
    const auto address =
        shared != nullptr ? static_cast<std::uintptr_t>(at - shared->shared) : reinterpret_cast<std::uintptr_t>(at);
    if (shared != nullptr) note_visit(*shared, deed);
    const Era era{start_, shared == nullptr};
    for (std::uintptr_t first = address, end = address + count; first < end;) {
        const std::uintptr_t next = std::min((first | 3U) + 1, end);
        const unsigned mask = ((1U << (next - first)) - 1) << first % 4;
        Cell* cell = nullptr;
        if (shared != nullptr) {
            cell = &shared->cells[first / 4];
        } else {
            Page& here = page(first / page_bytes);
            here.changed = here.changed || access != Access::read;
            cell = &here.cells[first % page_bytes / 4];
        }
        const Finding found = visit(*cell, mask, access, actor, deed, era, era.global ? global_lists_ : lists_);
        if (found.kind != Kind::none)
            tell(found, actor, deed, access,
                 at + (std::ptrdiff_t(first / 4 * 4 + found.byte) - std::ptrdiff_t(address)));
        first = next;
    }
}

Worker::RoundState& Worker::round(Round of) {
    RoundState& state = rounds_[of.object][of.number % 2];
    if (state.number != of.number) {
        state.known.clear();
        state.fenced.clear();
        state.number = of.number;
    }
    return state;
}

void Worker::release(const Thread& by, Round to) {
    ThreadState& own = state(by);
    RoundState& state = round(to);
    const Agent agent = agent_of(by);
    state.known.add(own.known);
    state.known.add(agent, own.clock);
    state.fenced.add(own.fenced);
    if (own.fenced_until > 0) state.fenced.add(agent, own.fenced_until);
    latest_ = std::max(latest_, ++own.clock);
    ++turn_;
}

void Worker::acquire(const Thread& by, Round from) {
    ThreadState& own = state(by);
    RoundState& state = round(from);
    own.known = state.known.learned_by(own.known);
    own.fenced = state.fenced.learned_by(own.fenced);
}

void Worker::fence_proxy_async(const Thread& by) {
    ThreadState& own = state(by);
    own.fenced = own.known;
    own.fenced_until = own.clock;
    latest_ = std::max(latest_, ++own.clock);
    ++turn_;
}

Operation Worker::begins(const Thread& by, Proxy through, const char* what, Where where) {
    ThreadState& own = state(by);
    // A slot may be used again by who knows that its last operation is over.
    std::uint32_t number = static_cast<std::uint32_t>(slots_.size());
    for (const std::uint32_t candidate : own.operations) {
        const Slot& old = slots_[candidate];
        if (covers(own.known, old.reads, old.clock) && covers(own.known, old.writes, old.clock)) {
            number = candidate;
            break;
        }
    }
    if (number == slots_.size()) {
        const auto agent = static_cast<Agent>(threads_.size() + 2 * slots_.size());
        if (agent + 2 >= Deed::most_agents)
            throw Fault("a cluster begins more operations without waiting for them than the simulator can follow");
        Slot& slot = slots_.emplace_back();
        slot.reads = agent;
        slot.writes = agent + 1;
        slot.clock = start_;
        own.operations.push_back(number);
        past_.back().thread_of_slot.push_back(agent_of(by));
    }
    Slot& slot = slots_[number];
    slot.clock++;
    latest_ = std::max(latest_, slot.clock);
    slot.async = through == Proxy::async;
    slot.site = site_of(what, where);
    slot.before.clear();
    slot.fenced_before.clear();
    for (Joined& after : slot.after) after.clear();
    begins_also(number, by);
    return number;
}

void Worker::begins_also(Operation operation, const Thread& by) {
    ThreadState& own = state(by);
    Slot& slot = slots_[operation];
    slot.before.add(own.known);
    slot.before.add(agent_of(by), own.clock);
    slot.fenced_before.add(own.fenced);
    if (own.fenced_until > 0) slot.fenced_before.add(agent_of(by), own.fenced_until);
    latest_ = std::max(latest_, ++own.clock);
    ++turn_;
}

void Worker::release(Operation operation, Round to) {
    Slot& slot = slots_[operation];
    RoundState& state = round(to);
    state.known.add(slot.before);
    state.known.add(slot.reads, slot.clock);
    state.known.add(slot.writes, slot.clock);
}

void Worker::acquire(const Thread& by, Operation operation, Part part) {
    ThreadState& own = state(by);
    Slot& slot = slots_[operation];
    Joined& after = slot.after[part == Part::all ? 1 : 0];
    if (after.is_empty()) {
        after.add(slot.before);
        after.add(slot.reads, slot.clock);
        if (part == Part::all) after.add(slot.writes, slot.clock);
    }
    own.known = after.learned_by(own.known);
    ++turn_;
}

}  // namespace dsa::simulator
