// What is before what: the events from which a listener can tell that two accesses of the same bytes are not ordered,
// or that the asynchronous proxy reads what the generic proxy wrote without a fence between. The model of the
// hardware tells these events; it does not judge them. Plain loads and stores of a kernel are not among them: whoever
// sees those (instrumented code) is the listener's business. docs/20-the-simulator.md.
//
// There are two kinds of agents. A thread does things in its program's order. An operation is an asynchronous copy or
// product: it begins after all that its threads did before, then reads and writes at an unknown time, and what it did
// is known to others only once they acquire it, directly (a wait for a group) or through an object (an mbarrier).
#pragma once

#include <cstddef>
#include <cstdint>

#include "optimized/simulator/thread.h"

namespace dsa::simulator {

// A synchronisation object in one of its rounds: a barrier, an mbarrier, the cluster's barrier. Who releases in a
// round is before who acquires that round. Rounds count up by one; only the current one and the one before it are
// asked for.
struct Round {
    const void* object;
    std::uint64_t number;
};

// Through which proxy an operation reaches memory. cp.async goes through the generic one; bulk copies, tensor copies
// and wgmma go through the asynchronous one. PTX ISA, "Proxies" and "Asynchronous operations". The end of an
// operation of the asynchronous proxy is followed by a fence of both proxies: who acquires it needs no other.
enum class Proxy : std::uint8_t { generic, async };

using Operation = std::uint64_t;

// Of an operation: its reads only (cp.async.bulk.wait_group.read), or all of it.
enum class Part : std::uint8_t { reads, all };

// Listeners override what they want to hear. Several threads of the operating system call at once, each for the
// threads of its own clusters.
class Order {
   public:
    virtual ~Order() = default;

    // A grid starts and ends, on the thread of the operating system that launched it.
    virtual void grid_begins() {}
    virtual void grid_ends(bool /*failed*/) {}
    // Until the next call on this thread of the operating system, what code does it does as `thread`.
    virtual void takes_turn(const Thread& /*thread*/) {}
    // A block's threads come to be, and are no more. Its shared memory is there in between.
    virtual void block_begins(const Block& /*block*/) {}
    virtual void block_ends(const Block& /*block*/) {}

    // Threads: what a thread did so far is handed on, or what others handed on is taken up.
    virtual void release(const Thread& /*by*/, Round /*to*/) {}
    virtual void acquire(const Thread& /*by*/, Round /*from*/) {}
    // fence.proxy.async: what is ordered before it in the generic proxy is before what follows it in the other.
    virtual void fence_proxy_async(const Thread& /*by*/, Where /*where*/) {}
    // Accesses that the model makes at once on behalf of a thread, in the generic proxy (ldmatrix, stmatrix).
    virtual void reads(const Thread& /*by*/, const void* /*bytes*/, std::size_t /*count*/, Where /*where*/) {}
    virtual void writes(const Thread& /*by*/, const void* /*bytes*/, std::size_t /*count*/, Where /*where*/) {}

    // Operations. `what` is the instruction's name and outlives the operation. All reads and writes are told right
    // after the beginning, by ranges. An operation of a warp begins by one lane, and also by the others.
    virtual Operation begins(const Thread& /*by*/, Proxy /*through*/, const char* /*what*/, Where /*where*/) {
        return 0;
    }
    virtual void begins_also(Operation /*operation*/, const Thread& /*by*/) {}
    virtual void reads(Operation /*operation*/, const void* /*bytes*/, std::size_t /*count*/) {}
    virtual void writes(Operation /*operation*/, const void* /*bytes*/, std::size_t /*count*/) {}
    // The operation has completed and says so to an object (complete_tx of an mbarrier).
    virtual void release(Operation /*operation*/, Round /*to*/) {}
    // A thread has waited for the operation itself (the groups of cp.async, of bulk copies, of wgmma).
    virtual void acquire(const Thread& /*by*/, Operation /*operation*/, Part /*part*/) {}
    // Nothing more will be told of it.
    virtual void ends(Operation /*operation*/) {}
};

// Who listens; at first somebody who ignores everything. Changed only while no kernel runs.
Order& order();
// Answers who listened before. nullptr: nobody.
Order* listen(Order* listener);

}  // namespace dsa::simulator
