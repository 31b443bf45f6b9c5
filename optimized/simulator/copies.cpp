#include "optimized/simulator/copies.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "optimized/simulator/order.h"

namespace dsa::simulator {
namespace {

bool aligned(const void* bytes, std::size_t to) { return reinterpret_cast<std::uintptr_t>(bytes) % to == 0; }

void poison(const std::vector<Run>& runs) {
    for (const Run& run : runs) std::memset(run.to, 0xff, run.count);
}

void copy(const std::vector<Run>& runs) {
    for (const Run& run : runs) {
        if (run.from == nullptr)
            for (std::size_t i = 0; i < run.count; ++i) run.to[i] = std::byte(run.fill >> 8 * (i % 2) & 0xff);
        else
            std::memcpy(run.to, run.from, run.count);
    }
}

Operation begin(const std::vector<Run>& runs, Proxy through, const Origin& origin) {
    const Operation operation = order().begins(*origin.thread, through, origin.what, origin.where);
    for (const Run& run : runs) {
        if (run.from != nullptr) order().reads(operation, run.from, run.count);
        order().writes(operation, run.to, run.count);
    }
    return operation;
}

void check_bulk(const void* a, const void* b, std::uint32_t bytes, const Origin& origin) {
    if (!aligned(a, 16) || !aligned(b, 16)) fault(origin, "needs both addresses at multiples of 16 bytes");
    if (bytes == 0 || bytes % 16 != 0) fault(origin, "needs a multiple of 16 bytes, not " + std::to_string(bytes));
}

}  // namespace

void fault(const Origin& origin, const std::string& sentence) {
    throw Fault(place_of(*origin.thread, origin.where) + origin.what + " " + sentence);
}

void cp_async(void* to, const void* from, unsigned bytes, unsigned source_bytes, Where where) {
    Thread& self = this_thread();
    const Origin origin{&self, "cp.async", where};
    if (bytes != 4 && bytes != 8 && bytes != 16)
        fault(origin, "copies 4, 8 or 16 bytes, not " + std::to_string(bytes));
    if (source_bytes > bytes)
        fault(origin, "of " + std::to_string(bytes) + " bytes cannot read " + std::to_string(source_bytes));
    if (!aligned(to, bytes) || !aligned(from, bytes))
        fault(origin, "of " + std::to_string(bytes) + " bytes needs both addresses at multiples of as many");
    if (!self.block->holds(to, bytes)) fault(origin, "writes outside of the block's shared memory");
    auto* target = static_cast<std::byte*>(to);
    std::vector<Run> runs;
    if (source_bytes > 0) runs.push_back({target, static_cast<const std::byte*>(from), source_bytes});
    if (source_bytes < bytes) runs.push_back({target + source_bytes, nullptr, bytes - source_bytes});
    const auto ticket = std::make_shared<Progress>();
    ticket->operation = begin(runs, Proxy::generic, origin);
    poison(runs);
    self.cp_async.add(ticket);
    const auto work = [runs, ticket] {
        copy(runs);
        ticket->has_read = ticket->done = true;
    };
    ticket->due = self.block->cluster().engine.later({work, {self.block}, origin});
}

void cp_async_arrive(std::uint64_t* mbarrier, bool noinc, Where where) {
    Thread& self = this_thread();
    Cluster& cluster = self.block->cluster();
    const Origin origin{&self, noinc ? "cp.async.mbarrier.arrive.noinc" : "cp.async.mbarrier.arrive", where};
    if (!noinc) cluster.mbarriers.add_pending(mbarrier, where);
    std::uint64_t last_due = 0;
    std::vector<std::uint64_t> operations;
    for (const Ticket& ticket : self.cp_async.all()) {
        last_due = std::max(last_due, ticket->due);
        operations.push_back(ticket->operation);
    }
    const auto work = [mbarrier, origin, operations, &cluster] {
        cluster.mbarriers.arrive_for(mbarrier, origin, operations);
    };
    cluster.engine.later({work, {self.block}, origin}, last_due);
}

void issue_load(std::vector<Run> runs, std::uint32_t bytes, std::uint64_t* mbarrier, std::uint16_t mask,
                const Origin& origin) {
    Block& own = *origin.thread->block;
    Cluster& cluster = own.cluster();
    if (!own.holds(mbarrier, sizeof *mbarrier)) fault(origin, "needs an mbarrier in the block's own shared memory");
    if (mask == 0) mask = static_cast<std::uint16_t>(1U << own.rank());
    if (mask >> cluster.size() != 0)
        fault(origin, "is for a block that the cluster of " + std::to_string(cluster.size()) +
                          " does not have: its mask is " + std::to_string(mask));
    for (unsigned rank = 0; rank < cluster.size(); ++rank) {
        if ((mask >> rank & 1U) == 0) continue;
        Block& target = cluster.block(rank);
        if (target.living() == 0)
            fault(origin, "is for block " + text_of(target.index()) +
                              ", which has returned: blocks of a cluster must wait for each other before they end");
        const std::ptrdiff_t away = target.shared() - own.shared();
        std::vector<Run> there = runs;
        for (Run& run : there) run.to += away;
        auto* told = reinterpret_cast<std::uint64_t*>(reinterpret_cast<std::byte*>(mbarrier) + away);
        cluster.mbarriers.check_fenced(told, origin);
        const Operation operation = begin(there, Proxy::async, origin);
        poison(there);
        const auto work = [there, bytes, told, operation, origin, &cluster] {
            copy(there);
            cluster.mbarriers.complete_bytes(told, bytes, origin, operation);
            order().ends(operation);
        };
        // Each block gets its own at its own time.
        cluster.engine.later({work, {&own, &target}, origin});
    }
    cluster.schedule.yield();
}

void issue_store(std::vector<Run> runs, bool adds, const Origin& origin) {
    Thread& self = this_thread();
    Engine& engine = self.block->cluster().engine;
    const auto ticket = std::make_shared<Progress>();
    ticket->operation = begin(runs, Proxy::async, origin);
    if (!adds) poison(runs);
    self.bulk.add(ticket);
    const auto held = std::make_shared<std::vector<std::byte>>();
    const auto write = [runs, adds, ticket, held] {
        const std::byte* from = held->data();
        for (const Run& run : runs) {
            if (!adds) std::memcpy(run.to, from, run.count);
            for (std::size_t at = 0; adds && at < run.count; at += sizeof(float)) {
                float value = 0.0F;
                std::memcpy(&value, from + at, sizeof value);
                // Other blocks may add here at the same time.
                std::atomic_ref<float>(*reinterpret_cast<float*>(run.to + at)).fetch_add(value);
            }
            from += run.count;
        }
        ticket->done = true;
    };
    const auto read = [runs, ticket, held, write, origin, &engine] {
        for (const Run& run : runs) held->insert(held->end(), run.from, run.from + run.count);
        ticket->has_read = true;
        ticket->due = engine.later({write, {}, origin});
    };
    ticket->due = engine.later({read, {self.block}, origin});
}

void bulk_load(void* to, const void* from, std::uint32_t bytes, std::uint64_t* mbarrier, std::uint16_t mask,
               Where where) {
    const Origin origin{&this_thread(), mask == 0 ? "cp.async.bulk" : "cp.async.bulk (multicast)", where};
    check_bulk(to, from, bytes, origin);
    if (!origin.thread->block->holds(to, bytes)) fault(origin, "writes outside of the block's shared memory");
    issue_load({{static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes}}, bytes, mbarrier, mask,
               origin);
}

void bulk_to_block(void* to, const void* from, std::uint32_t bytes, std::uint64_t* mbarrier, Where where) {
    const Origin origin{&this_thread(), "cp.async.bulk to another block", where};
    Block& own = *origin.thread->block;
    Cluster& cluster = own.cluster();
    check_bulk(to, from, bytes, origin);
    if (!own.holds(from, bytes)) fault(origin, "reads outside of the block's shared memory");
    Block* target = cluster.block_of(to, bytes);
    if (target == nullptr || !target->holds(mbarrier, sizeof *mbarrier))
        fault(origin, "needs its destination and its mbarrier in the shared memory of one block of the cluster");
    if (target->living() == 0) fault(origin, "writes to a block that has returned");
    cluster.mbarriers.check_fenced(mbarrier, origin);
    const std::vector<Run> runs{{static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes}};
    const Operation operation = begin(runs, Proxy::async, origin);
    poison(runs);
    const auto work = [runs, bytes, mbarrier, operation, origin, &cluster] {
        copy(runs);
        cluster.mbarriers.complete_bytes(mbarrier, bytes, origin, operation);
        order().ends(operation);
    };
    cluster.engine.later({work, {&own, target}, origin});
    cluster.schedule.yield();
}

void bulk_store(void* to, const void* from, std::uint32_t bytes, Where where) {
    const Origin origin{&this_thread(), "cp.async.bulk to global memory", where};
    check_bulk(to, from, bytes, origin);
    if (!origin.thread->block->holds(from, bytes)) fault(origin, "reads outside of the block's shared memory");
    issue_store({{static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes}}, false, origin);
}

void commit_copies(Groups Thread::*groups) { (this_thread().*groups).commit(); }

void wait_for_copies(Groups Thread::*groups, unsigned kept, bool reads_only, const char* what, Where where) {
    Thread& self = this_thread();
    const std::vector<Ticket> tickets = (self.*groups).but_the_last(kept);
    self.block->cluster().schedule.wait_until(
        [&tickets, reads_only] {
            return std::all_of(tickets.begin(), tickets.end(),
                               [&](const Ticket& t) { return reads_only ? t->has_read : t->done; });
        },
        [what, where] { return std::string(what) + " at " + text_of(where); });
    for (const Ticket& ticket : tickets) {
        order().acquire(self, ticket->operation, reads_only ? Part::reads : Part::all);
        if (!reads_only) order().ends(ticket->operation);
    }
    if (!reads_only) (self.*groups).forget_but_the_last(kept);
}

}  // namespace dsa::simulator
