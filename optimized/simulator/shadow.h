// What was done to memory: beside every 4 bytes a cell remembers who wrote each byte last, and who has read it since.
// One visit of a cell asks whether the deed at hand is ordered after those that it conflicts with.
#pragma once

#include <bit>
#include <cstdint>
#include <stdexcept>
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
        : bits_(std::uint64_t{clock} << 37 | std::uint64_t{agent} << agent_at | std::uint64_t{atomic} << 21 |
                std::uint64_t{async} << 20 | site) {}
    Clock clock() const { return static_cast<Clock>(bits_ >> 37); }
    Agent agent() const { return static_cast<Agent>(bits_ >> agent_at & (most_agents - 1)); }
    bool atomic() const { return (bits_ >> 21 & 1U) != 0; }
    bool async() const { return (bits_ >> 20 & 1U) != 0; }  // through the asynchronous proxy
    Site site() const { return static_cast<Site>(bits_ & most_sites); }
    bool is_nobody() const { return bits_ == 0; }
    bool operator==(const Deed&) const = default;

   private:
    friend class Seen;
    static constexpr unsigned agent_at = 22;
    explicit Deed(std::uint64_t bits) : bits_(bits) {}
    std::uint64_t bits_ = 0;
};

// Who has read (or atomically updated) some bytes of a cell: of 16 neighbouring agents those with a bit, at one clock
// and one place. A warp's lanes mostly read the same words at the same clock, and so need no deed each.
class [[gnu::packed]] Seen {
   public:
    static constexpr unsigned agents = 16;

    Seen() = default;
    // bytes: of the cell's 4, a bit each. They are kept where the deed of all 16 has no agent's number.
    Seen(Deed deed, unsigned bytes)
        : bits_((deed.bits_ & ~in_group) | std::uint64_t{bytes} << Deed::agent_at),
          agents_(static_cast<std::uint16_t>(1U << deed.agent() % agents)) {}
    bool is_nobody() const { return agents_ == 0; }
    unsigned bytes() const { return static_cast<unsigned>((bits_ & in_group) >> Deed::agent_at); }
    void set_bytes(unsigned bytes) {
        bits_ = (bits_ & ~in_group) | std::uint64_t{bytes} << Deed::agent_at;
        if (bytes == 0) agents_ = 0;
    }
    std::uint16_t who() const { return agents_; }
    Agent first_agent() const { return Deed(bits_ & ~in_group).agent(); }
    Clock clock() const { return Deed(bits_).clock(); }
    bool atomic() const { return Deed(bits_).atomic(); }
    // The deed of one of them; of the first one.
    Deed deed_of(unsigned agent) const { return Deed((bits_ & ~in_group) | std::uint64_t{agent} << Deed::agent_at); }
    Deed deed() const { return deed_of(static_cast<unsigned>(std::countr_zero(agents_))); }

    // Whether it says already that `deed` was done to these bytes, maybe at another place.
    bool has(Deed deed, unsigned of_bytes) const {
        return ((bits_ ^ deed.bits_) & ~in_group) >> Deed::site_bits == 0 &&
               (agents_ >> deed.agent() % agents & 1U) != 0 && (bytes() & of_bytes) == of_bytes;
    }
    // Takes up another one, if it differs in the agents only, or in the bytes only.
    bool takes(const Seen& other) {
        if (bits_ == other.bits_) {
            agents_ |= other.agents_;
            return true;
        }
        if (((bits_ ^ other.bits_) & ~in_group) >> Deed::site_bits != 0 || agents_ != other.agents_) return false;
        set_bytes(bytes() | other.bytes());
        return true;
    }
    // Any order of all, in which those that may take each other up are neighbours.
    bool precedes(const Seen& other) const { return bits_ < other.bits_; }

   private:
    static constexpr std::uint64_t in_group = std::uint64_t{agents - 1} << Deed::agent_at;
    std::uint64_t bits_ = 0;
    std::uint16_t agents_ = 0;
};

// Some of them. The first ones lie where the list does: they are looked at at nearly every access of a word that many
// read.
class SeenList {
   public:
    Seen* begin() { return many_.empty() ? few_ : many_.data(); }
    Seen* end() { return begin() + count_; }
    const Seen* begin() const { return many_.empty() ? few_ : many_.data(); }
    const Seen* end() const { return begin() + count_; }
    std::size_t size() const { return count_; }
    bool empty() const { return count_ == 0; }
    Seen take_last() { return begin()[--count_]; }
    void push_back(const Seen& seen) {
        if (many_.empty() && count_ == in_place) many_.assign(few_, few_ + count_);
        if (!many_.empty() && many_.size() == count_) many_.resize(2 * many_.size());
        begin()[count_++] = seen;
    }
    void end_at(const Seen* end) { count_ = static_cast<std::uint32_t>(end - begin()); }
    void clear() {
        count_ = 0;
        many_.clear();
    }

   private:
    static constexpr std::uint32_t in_place = 7;
    std::vector<Seen> many_;  // all of them, once they are more
    std::uint32_t count_ = 0;
    Seen few_[in_place];
};

// Lists of readers, for cells that unordered agents have read of which two `Seen` cannot tell.
class Lists {
   public:
    static constexpr std::uint32_t most = (1U << 24) - 1;  // a cell has so many bits for the name of one
    struct alignas(64) List {
        std::uint64_t known_by = 0;           // the serial of clocks that know of all of it; 0: none is known
        bool reads = false, atomics = false;  // whether there may be any
        std::uint32_t tidy_at = 32;           // how long it may grow before it is looked through for what can go
        SeenList all;
    };

    std::uint32_t take() {
        if (free_.empty()) {
            if (all_.size() == most) throw std::length_error("more words with many readers than can be told apart");
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
    Deed foreign;  // a reader or updater from blocks that this worker ran before, in the same grid
    std::uint32_t foreign_reads : 4, foreign_atomics : 4;  // the bytes
    std::uint32_t list : 24;                               // the name of more of `seen`; 0: no more
    Seen seen[2];  // readers and atomic updaters; the second only where there is a first
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
