#include "optimized/simulator/shadow.h"

#include <algorithm>
#include <bit>

namespace dsa::simulator {
namespace {

inline bool is_known(Deed before, const Clocks* known) {
    const Agent agent = before.agent();
    return known != nullptr && agent < known->size() && (*known)[agent] >= before.clock();
}

inline bool is_ordered(Deed before, const Actor& actor) {
    return before.agent() == actor.agent || actor.known.covers(before.agent(), before.clock());
}

// A generic write is before an asynchronous access only if a fence lies between.
bool is_fenced(Deed before, const Actor& actor) {
    if (!actor.async || before.async()) return true;
    return actor.fenced.covers(before.agent(), before.clock());
}

// What clusters before this one left in the cell.
void put_aside_the_old(Cell& cell, Era era, Lists& lists) {
    const auto put_aside = [&](Deed deed, unsigned bytes) {
        if (bytes == 0 || !era.global) return;
        cell.foreign = deed;
        (deed.atomic() ? cell.foreign_atomics : cell.foreign_reads) |= static_cast<std::uint8_t>(bytes);
    };
    for (unsigned i = 0; i < 2; ++i) {
        put_aside(cell.seen[i], cell.seen_bytes[i]);
        cell.seen[i] = Deed();
        cell.seen_bytes[i] = 0;
    }
    if (cell.list == 0) return;
    for (const Seen& seen : lists[cell.list].all) put_aside(seen.deed, seen.bytes);
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
    const auto is_race = [&](Deed before, unsigned seen) {
        return (seen & bytes) != 0 && conflicts(access, before.atomic()) && !is_ordered(before, actor);
    };
    const unsigned foreign = ((conflicts(access, false) ? cell.foreign_reads : 0U) |
                              (conflicts(access, true) ? cell.foreign_atomics : 0U)) &
                             bytes;
    if (foreign != 0) return {kind_of(cell.foreign), cell.foreign, static_cast<unsigned>(std::countr_zero(foreign))};
    for (unsigned i = 0; i < 2; ++i)
        if (is_race(cell.seen[i], cell.seen_bytes[i]))
            return {kind_of(cell.seen[i]), cell.seen[i],
                    static_cast<unsigned>(std::countr_zero(cell.seen_bytes[i] & bytes))};
    if (cell.list == 0) return {};
    Lists::List& list = lists[cell.list];
    if (!(conflicts(access, false) && list.reads) && !(conflicts(access, true) && list.atomics)) return {};
    // All threads that left one barrier know the same: the list is looked through for the first of them.
    const Clocks* known = actor.known.clocks;
    if (known != nullptr && known->serial() == list.known_by) return {};
    bool all_known = true;
    for (const Seen& seen : list.all) {
        if (is_known(seen.deed, known)) continue;
        all_known = false;
        if (is_race(seen.deed, seen.bytes))
            return {kind_of(seen.deed), seen.deed, static_cast<unsigned>(std::countr_zero(seen.bytes & bytes))};
    }
    if (all_known && known != nullptr) list.known_by = known->serial();
    return {};
}

// Whether it is enough to remember the new one: whoever comes after it comes after the old one too.
bool replaces(Deed deed, unsigned bytes, Deed old, unsigned old_bytes, const Actor& actor) {
    return deed.atomic() == old.atomic() && (old_bytes & ~bytes) == 0 && is_ordered(old, actor);
}

// Forgets what need not be remembered beside the new one, and what is there twice.
void tidy(Lists::List& list, unsigned bytes, Deed deed, const Actor& actor) {
    std::vector<Seen>& all = list.all;
    std::erase_if(all, [&](const Seen& old) { return replaces(deed, bytes, old.deed, old.bytes, actor); });
    std::sort(all.begin(), all.end(), [](const Seen& a, const Seen& b) { return a.deed.precedes(b.deed); });
    std::size_t kept = 0;
    for (const Seen& seen : all) {
        if (kept > 0 && all[kept - 1].deed.is_of(seen.deed))
            all[kept - 1].bytes |= seen.bytes;
        else
            all[kept++] = seen;
    }
    all.resize(kept);
    list.tidy_at = std::max<std::size_t>(32, 2 * kept);
}

void remember(Cell& cell, unsigned bytes, Deed deed, const Actor& actor, Lists& lists) {
    for (unsigned i = 0; i < 2; ++i) {
        const Deed old = cell.seen[i];
        if (old.is_of(deed)) {
            cell.seen_bytes[i] |= static_cast<std::uint8_t>(bytes);
            return;
        }
        if (cell.seen_bytes[i] == 0 || replaces(deed, bytes, old, cell.seen_bytes[i], actor)) {
            cell.seen[i] = deed;
            cell.seen_bytes[i] = static_cast<std::uint8_t>(bytes);
            return;
        }
    }
    if (cell.list == 0) cell.list = lists.take();
    Lists::List& list = lists[cell.list];
    if (list.all.size() >= list.tidy_at) tidy(list, bytes, deed, actor);
    list.all.push_back({deed, bytes});
    (deed.atomic() ? list.atomics : list.reads) = true;
    list.known_by = 0;
}

// Who comes after this write comes after those readers too.
void forget_readers(Cell& cell, unsigned bytes, Lists& lists) {
    for (unsigned i = 0; i < 2; ++i) cell.seen_bytes[i] &= static_cast<std::uint8_t>(~bytes);
    if (cell.seen_bytes[0] == 0) {
        cell.seen[0] = cell.seen[1];
        cell.seen_bytes[0] = cell.seen_bytes[1];
        cell.seen_bytes[1] = 0;
    }
    if (cell.list == 0) return;
    std::vector<Seen>& list = lists[cell.list].all;
    for (Seen& seen : list) seen.bytes &= ~bytes;
    std::erase_if(list, [](const Seen& seen) { return seen.bytes == 0; });
    if (cell.seen_bytes[0] == 0 && !list.empty()) {
        cell.seen[0] = list.back().deed;
        cell.seen_bytes[0] = static_cast<std::uint8_t>(list.back().bytes);
        list.pop_back();
    }
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
        for (unsigned i = 0; i < 2; ++i) add(cell.seen[i], cell.seen_bytes[i]);
        if (cell.list != 0)
            for (const Seen& seen : lists[cell.list].all) add(seen.deed, seen.bytes);
        add_foreign(cell.foreign, cell.foreign_reads, reads, read);
        add_foreign(cell.foreign, cell.foreign_atomics, atomics, atomic);
    }
    void add(Deed deed, unsigned bytes) {
        add_foreign(deed, bytes, deed.atomic() ? atomics : reads, deed.atomic() ? atomic : read);
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
    if (access == Access::read && (cell.seen_bytes[0] & bytes) == bytes && cell.seen[0].is_of(deed)) return {};
    if (cell.seen_bytes[0] != 0 && cell.seen[0].clock() <= era.start) put_aside_the_old(cell, era, lists);
    if (const Finding found = against_writers(cell, bytes, access, actor, era); found.kind != Kind::none)
        return found;
    if (cell.seen_bytes[0] != 0 || cell.foreign_reads != 0 || cell.foreign_atomics != 0)
        if (const Finding found = against_readers(cell, bytes, access, actor, lists); found.kind != Kind::none)
            return found;
    if (access != Access::write) {
        remember(cell, bytes, deed, actor, lists);
        return {};
    }
    for (unsigned b = 0; b < 4; ++b)
        if ((bytes >> b & 1U) != 0) cell.written[b] = deed;
    if (cell.seen_bytes[0] != 0) forget_readers(cell, bytes, lists);
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
