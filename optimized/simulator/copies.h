// Asynchronous copies: cp.async, cp.async.bulk, and what tensor copies are made of. PTX ISA, "Data movement and
// conversion instructions: asynchronous copy". Their destination is poison (0xff) from the moment of issue until they
// are done.
#pragma once

#include <cstdint>
#include <vector>

#include "optimized/simulator/cluster.h"

namespace dsa::simulator {

// A piece of a copy: bytes that lie together on both sides.
struct Run {
    std::byte* to;
    const std::byte* from;  // nullptr: filled
    std::size_t count;
    std::uint16_t fill = 0;  // with these two bytes, again and again
};

// cp.async: 4, 8 or 16 bytes from global to shared memory; past `source_bytes` zeros.
void cp_async(void* to, const void* from, unsigned bytes, unsigned source_bytes, Where where);
// cp.async.mbarrier.arrive: one arrival when all cp.async of this thread so far are done. `noinc`: it is one of those
// that the phase expects; else it is counted in first.
void cp_async_arrive(std::uint64_t* mbarrier, bool noinc, Where where);

// From global to shared memory, bytes told to the mbarrier. `mask`: the blocks of the cluster that get it, each at
// the same place as the caller and told to the same mbarrier of its own; 0: the caller's block only.
void bulk_load(void* to, const void* from, std::uint32_t bytes, std::uint64_t* mbarrier, std::uint16_t mask,
               Where where);
// To the shared memory of another block of the cluster, told to an mbarrier there.
void bulk_to_block(void* to, const void* from, std::uint32_t bytes, std::uint64_t* mbarrier, Where where);
// From shared to global memory, in a bulk group.
void bulk_store(void* to, const void* from, std::uint32_t bytes, Where where);

void commit_copies(Groups Thread::*groups);
// Part::reads: only until the sources may be overwritten.
void wait_for_copies(Groups Thread::*groups, unsigned kept, bool reads_only, const char* what, Where where);

// What bulk and tensor copies share: the runs lead into the caller's shared memory.
void issue_load(std::vector<Run> runs, std::uint32_t bytes, std::uint64_t* mbarrier, std::uint16_t mask,
                const Origin& origin);
// The runs lead from the caller's shared memory. `adds`: float32 sums in place of a copy.
void issue_store(std::vector<Run> runs, bool adds, const Origin& origin);
[[noreturn]] void fault(const Origin& origin, const std::string& sentence);

}  // namespace dsa::simulator
