// What was done to memory: beside every 4 bytes a cell remembers who wrote each byte last, and who has read it since.
// One visit of a cell asks whether the deed at hand is ordered after those that it conflicts with.
#pragma once

#include <cstdint>
#include <vector>

#include "optimized/simulator/clocks.h"
#include "optimized/simulator/sites.h"

namespace dsa::simulator {

enum class Access : std::uint8_t { read, write, atomic };

// One access: by whom, when on his clock, how, and where in the source. 0: nobody.
class Deed {
   public:
    static constexpr unsigned site_bits = 20, agent_bits = 15, clock_bits = 27;
    static constexpr Agent most_agents = 1U << agent_bits;
    static constexpr Clock last_clock = (1U << clock_bits) - 1;

    Deed() = default;
    Deed(Agent agent, Clock clock, bool atomic, bool async, Site site)
        : bits_(std::uint64_t{clock} << 37 | std::uint64_t{agent} << 22 | std::uint64_t{atomic} << 21 |
                std::uint64_t{async} << 20 | site) {}
    Clock clock() const { return static_cast<Clock>(bits_ >> 37); }
    Agent agent() const { return static_cast<Agent>(bits_ >> 22 & (most_agents - 1)); }
    bool atomic() const { return (bits_ >> 21 & 1U) != 0; }
    bool async() const { return (bits_ >> 20 & 1U) != 0; }  // through the asynchronous proxy
    Site site() const { return static_cast<Site>(bits_ & most_sites); }
    // The same but for the place in the source.
    bool is_of(Deed other) const { return ((bits_ ^ other.bits_) >> site_bits) == 0; }
    // Any order of all, in which those that differ in the place only are neighbours.
    bool precedes(Deed other) const { return bits_ < other.bits_; }
    bool is_nobody() const { return bits_ == 0; }
    bool operator==(const Deed&) const = default;

   private:
    std::uint64_t bits_ = 0;
};

struct Seen {
    Deed deed;
    unsigned bytes = 0;  // of the cell's 4, a bit each
};

// Lists of readers, for cells that more than two unordered agents have read.
class Lists {
   public:
    struct List {
        std::vector<Seen> all;
        std::size_t tidy_at = 32;             // how long it may grow before it is looked through for what can go
        std::uint64_t known_by = 0;           // the serial of clocks that know of all of it; 0: none is known
        bool reads = false, atomics = false;  // whether there may be any
    };

    std::uint32_t take() {
        if (free_.empty()) {
            all_.emplace_back();
            return static_cast<std::uint32_t>(all_.size());
        }
        const std::uint32_t list = free_.back();
        free_.pop_back();
        return list;
    }
    void give_back(std::uint32_t list) {
        List& it = (*this)[list];
        it.all.clear();
        it.tidy_at = 32;
        it.known_by = 0;
        it.reads = it.atomics = false;
        free_.push_back(list);
    }
    List& operator[](std::uint32_t list) { return all_[list - 1]; }
    const List& operator[](std::uint32_t list) const { return all_[list - 1]; }
    void clear() {
        free_.clear();
        all_.clear();
    }

   private:
    std::vector<List> all_;
    std::vector<std::uint32_t> free_;
};

struct alignas(64) Cell {
    Deed written[4];
    Deed seen[2];  // readers and atomic updaters; the second only where there is a first
    Deed foreign;  // one of those from blocks that this worker ran before, in the same grid
    std::uint8_t seen_bytes[2];
    std::uint8_t foreign_reads, foreign_atomics;  // the bytes
    std::uint32_t list;                           // the name of more of `seen`; 0: no more
};
static_assert(sizeof(Cell) == 64);

// Who acts, and what he knows. An operation that several threads began is one actor.
struct Actor {
    Agent agent = 0;
    Clock clock = 0;
    bool async = false;
    View known;
    View fenced;  // what a fence.proxy.async has made known to the asynchronous proxy
};

enum class Kind : std::uint8_t { none, unwritten, beyond, write_write, read_write, write_read, no_fence };

// `before`, and what is done now, are not as they must be.
struct Finding {
    Kind kind = Kind::none;
    Deed before;
    unsigned byte = 0;  // of the cell
};

// Where a worker is: deeds up to clock `start` are those of clusters that it ran before. In shared memory they are
// nobody's, in global memory (of one grid) they are other blocks', which are never ordered with this one's.
struct Era {
    Clock start = 0;
    bool global = false;
};

// An access of `bytes` of a cell. What is found is not written down.
Finding visit(Cell& cell, unsigned bytes, Access access, const Actor& actor, Deed deed, Era era, Lists& lists);

// Two workers' cells of the same 4 bytes after a grid: what the one did conflicts with what the other did.
struct Clash {
    Kind kind = Kind::none;
    Deed first, second;
    unsigned byte = 0;
    bool swapped = false;  // the first is b's
};
Clash compare(const Cell& a, const Lists& a_lists, const Cell& b, const Lists& b_lists);

// The mark of bytes that no kernel may touch, as their writer.
Deed off_limits();

}  // namespace dsa::simulator
