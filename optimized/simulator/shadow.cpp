#include "optimized/simulator/shadow.h"

#include <algorithm>
#include <bit>

namespace dsa::simulator {
namespace {

inline bool is_ordered(Deed before, const Actor& actor) {
    return before.agent() == actor.agent || actor.known.covers(before.agent(), before.clock());
}

// Of the agents of `seen`, a bit each: those whose deeds the clocks do not cover.
inline unsigned unknown_of(const Seen& seen, const Clocks* known) {
    const Agent first = seen.first_agent();
    if (known == nullptr || first >= known->size()) return seen.who();
    const Clock clock = seen.clock();
    const Clock* clocks = known->data() + first;
    const std::size_t count = known->size() - first;
    unsigned unknown = seen.who();
    for (unsigned rest = unknown; rest != 0; rest &= rest - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(rest));
        if (i < count && clocks[i] >= clock) unknown &= ~(1U << i);
    }
    return unknown;
}
// Of those of `unknown`: who is not before the actor by what else he knows.
inline unsigned unordered_of(const Seen& seen, unsigned unknown, const Actor& actor) {
    unsigned left = unknown;
    for (unsigned rest = unknown; rest != 0; rest &= rest - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(rest));
        const Agent agent = seen.first_agent() + i;
        if (agent == actor.agent || View{nullptr, actor.known.deeds}.covers(agent, seen.clock())) left &= ~(1U << i);
    }
    return left;
}
inline unsigned unordered_of(const Seen& seen, const Actor& actor) {
    const unsigned unknown = unknown_of(seen, actor.known.clocks);
    return unknown == 0 ? 0 : unordered_of(seen, unknown, actor);
}

// A generic write is before an asynchronous access only if a fence lies between.
bool is_fenced(Deed before, const Actor& actor) {
    if (!actor.async || before.async()) return true;
    return actor.fenced.covers(before.agent(), before.clock());
}

// What clusters before this one left in the cell.
void put_aside_the_old(Cell& cell, Era era, Lists& lists) {
    const auto put_aside = [&](const Seen& seen) {
        if (seen.is_nobody() || !era.global) return;
        cell.foreign = seen.deed();
        if (seen.atomic())
            cell.foreign_atomics = (cell.foreign_atomics | seen.bytes()) & 15U;
        else
            cell.foreign_reads = (cell.foreign_reads | seen.bytes()) & 15U;
    };
    for (Seen& seen : cell.seen) {
        put_aside(seen);
        seen = Seen();
    }
    if (cell.list == 0) return;
    for (const Seen& seen : lists[cell.list].all) put_aside(seen);
    lists.give_back(cell.list);
    cell.list = 0;
}

Finding against_writers(const Cell& cell, unsigned bytes, Access access, const Actor& actor, Era era) {
    const Kind kind = access == Access::read ? Kind::write_read : Kind::write_write;
    Deed last;
    bool first = true;
    for (unsigned b = 0; b < 4; ++b) {
        if ((bytes >> b & 1U) == 0) continue;
        const Deed before = cell.written[b];
        if (!first && before == last) continue;
        first = false;
        last = before;
        if (before == off_limits()) return {Kind::beyond, before, b};
        if (before.clock() <= era.start) {
            if (era.global && !before.is_nobody()) return {kind, before, b};
            if (!era.global && access != Access::write) return {Kind::unwritten, Deed(), b};
            continue;
        }
        if (!is_ordered(before, actor)) return {kind, before, b};
        if (!is_fenced(before, actor)) return {Kind::no_fence, before, b};
    }
    return {};
}

// Plain reads conflict with atomic updates, atomic updates with plain reads, writes with both.
bool conflicts(Access access, bool with_atomic) {
    return access == Access::write || (access == Access::read) == with_atomic;
}

Finding against_readers(const Cell& cell, unsigned bytes, Access access, const Actor& actor, Lists& lists) {
    const auto kind_of = [&](Deed before) {
        return access == Access::read ? Kind::write_read : before.atomic() ? Kind::write_write : Kind::read_write;
    };
    const auto race_with = [&](const Seen& seen, unsigned unordered) -> Finding {
        const Deed before = seen.deed_of(static_cast<unsigned>(std::countr_zero(unordered)));
        return {kind_of(before), before, static_cast<unsigned>(std::countr_zero(seen.bytes() & bytes))};
    };
    const auto matters = [&](const Seen& seen) {
        return (seen.bytes() & bytes) != 0 && conflicts(access, seen.atomic());
    };
    const unsigned foreign = ((conflicts(access, false) ? cell.foreign_reads : 0U) |
                              (conflicts(access, true) ? cell.foreign_atomics : 0U)) &
                             bytes;
    if (foreign != 0) return {kind_of(cell.foreign), cell.foreign, static_cast<unsigned>(std::countr_zero(foreign))};
    for (const Seen& seen : cell.seen)
        if (matters(seen))
            if (const unsigned unordered = unordered_of(seen, actor); unordered != 0)
                return race_with(seen, unordered);
    if (cell.list == 0) return {};
    Lists::List& list = lists[cell.list];
    if (!(conflicts(access, false) && list.reads) && !(conflicts(access, true) && list.atomics)) return {};
    // All threads that left one barrier know the same: the list is looked through for the first of them.
    const Clocks* known = actor.known.clocks;
    if (known != nullptr && known->serial() == list.known_by) return {};
    bool all_known = true;
    for (const Seen& seen : list.all) {
        const unsigned unknown = unknown_of(seen, known);
        if (unknown == 0) continue;
        all_known = false;
        if (!matters(seen)) continue;
        if (const unsigned unordered = unordered_of(seen, unknown, actor); unordered != 0)
            return race_with(seen, unordered);
    }
    if (all_known && known != nullptr) list.known_by = known->serial();
    return {};
}

// Whether it is enough to remember the new one: whoever comes after it comes after the old one too.
inline bool replaces(const Seen& now, const Seen& old, const Actor& actor) {
    return now.atomic() == old.atomic() && (old.bytes() & ~now.bytes()) == 0 && is_ordered(old.deed(), actor) &&
           unordered_of(old, actor) == 0;
}

// Forgets what need not be remembered beside the new one, and puts together what can be.
void tidy(Lists::List& list, const Seen& now, const Actor& actor) {
    SeenList& all = list.all;
    Seen* const end =
        std::remove_if(all.begin(), all.end(), [&](const Seen& old) { return replaces(now, old, actor); });
    std::sort(all.begin(), end, [](const Seen& a, const Seen& b) { return a.precedes(b); });
    Seen* kept = all.begin();
    for (const Seen* seen = all.begin(); seen != end; ++seen)
        if (kept == all.begin() || !kept[-1].takes(*seen)) *kept++ = *seen;
    all.end_at(kept);
    list.tidy_at = std::max<std::uint32_t>(32, 2 * static_cast<std::uint32_t>(all.size()));
}

void remember(Cell& cell, unsigned bytes, Deed deed, const Actor& actor, Lists& lists) {
    const Seen now(deed, bytes);
    for (Seen& old : cell.seen) {
        if (old.is_nobody()) {
            old = now;
            return;
        }
        if (old.has(deed, bytes) || old.takes(now)) return;
        if (replaces(now, old, actor)) {
            old = now;
            return;
        }
    }
    if (cell.list == 0) cell.list = lists.take() & Lists::most;
    Lists::List& list = lists[cell.list];
    list.known_by = 0;
    // Mostly another lane of a warp that is there already.
    for (Seen& old : list.all)
        if (old.takes(now)) return;
    if (list.all.size() >= list.tidy_at) tidy(list, now, actor);
    list.all.push_back(now);
    (deed.atomic() ? list.atomics : list.reads) = true;
}

// Who comes after this write comes after those readers too.
void forget_readers(Cell& cell, unsigned bytes, Lists& lists) {
    for (Seen& seen : cell.seen) seen.set_bytes(seen.bytes() & ~bytes);
    if (cell.seen[0].is_nobody()) {
        cell.seen[0] = cell.seen[1];
        cell.seen[1] = Seen();
    }
    if (cell.list == 0) return;
    SeenList& list = lists[cell.list].all;
    for (Seen& seen : list) seen.set_bytes(seen.bytes() & ~bytes);
    list.end_at(std::remove_if(list.begin(), list.end(), [](const Seen& seen) { return seen.is_nobody(); }));
    if (cell.seen[0].is_nobody() && !list.empty()) cell.seen[0] = list.take_last();
    if (!list.empty()) return;
    lists.give_back(cell.list);
    cell.list = 0;
}

struct Summary {
    unsigned writes = 0, reads = 0, atomics = 0;
    Deed write[4], read[4], atomic[4];

    Summary(const Cell& cell, const Lists& lists) {
        for (unsigned b = 0; b < 4; ++b) {
            if (cell.written[b].is_nobody() || cell.written[b] == off_limits()) continue;
            writes |= 1U << b;
            write[b] = cell.written[b];
        }
        for (const Seen& seen : cell.seen) add(seen);
        if (cell.list != 0)
            for (const Seen& seen : lists[cell.list].all) add(seen);
        add_foreign(cell.foreign, cell.foreign_reads, reads, read);
        add_foreign(cell.foreign, cell.foreign_atomics, atomics, atomic);
    }
    void add(const Seen& seen) {
        if (seen.is_nobody()) return;
        add_foreign(seen.deed(), seen.bytes(), seen.atomic() ? atomics : reads, seen.atomic() ? atomic : read);
    }
    static void add_foreign(Deed deed, unsigned bytes, unsigned& all, Deed (&examples)[4]) {
        all |= bytes;
        for (unsigned b = 0; b < 4; ++b)
            if ((bytes >> b & 1U) != 0) examples[b] = deed;
    }
};

}  // namespace

Deed off_limits() { return {Deed::most_agents - 1, Deed::last_clock, true, true, 0}; }

Finding visit(Cell& cell, unsigned bytes, Access access, const Actor& actor, Deed deed, Era era, Lists& lists) {
    // What the actor has read at this clock, and nobody has written since, he may read again: a write would have
    // forgotten him.
    if (access == Access::read && (cell.seen[0].has(deed, bytes) || cell.seen[1].has(deed, bytes))) return {};
    if (!cell.seen[0].is_nobody() && cell.seen[0].clock() <= era.start) put_aside_the_old(cell, era, lists);
    if (const Finding found = against_writers(cell, bytes, access, actor, era); found.kind != Kind::none)
        return found;
    if (!cell.seen[0].is_nobody() || cell.foreign_reads != 0 || cell.foreign_atomics != 0)
        if (const Finding found = against_readers(cell, bytes, access, actor, lists); found.kind != Kind::none)
            return found;
    if (access != Access::write) {
        remember(cell, bytes, deed, actor, lists);
        return {};
    }
    for (unsigned b = 0; b < 4; ++b)
        if ((bytes >> b & 1U) != 0) cell.written[b] = deed;
    if (!cell.seen[0].is_nobody()) forget_readers(cell, bytes, lists);
    return {};
}

Clash compare(const Cell& a, const Lists& a_lists, const Cell& b, const Lists& b_lists) {
    const Summary x(a, a_lists), y(b, b_lists);
    const auto clash = [](Kind kind, unsigned bytes, const Deed(&first)[4], const Deed(&second)[4],
                          bool swapped = false) -> Clash {
        const auto byte = static_cast<unsigned>(std::countr_zero(bytes));
        return {kind, first[byte], second[byte], byte, swapped};
    };
    if (const unsigned n = x.writes & y.writes; n != 0) return clash(Kind::write_write, n, x.write, y.write);
    if (const unsigned n = x.writes & y.reads; n != 0) return clash(Kind::write_read, n, x.write, y.read);
    if (const unsigned n = x.reads & y.writes; n != 0) return clash(Kind::write_read, n, y.write, x.read, true);
    if (const unsigned n = x.writes & y.atomics; n != 0) return clash(Kind::write_write, n, x.write, y.atomic);
    if (const unsigned n = x.atomics & y.writes; n != 0) return clash(Kind::write_write, n, y.write, x.atomic, true);
    if (const unsigned n = x.atomics & y.reads; n != 0) return clash(Kind::write_read, n, x.atomic, y.read);
    if (const unsigned n = x.reads & y.atomics; n != 0) return clash(Kind::write_read, n, y.atomic, x.read, true);
    return {};
}

}  // namespace dsa::simulator
