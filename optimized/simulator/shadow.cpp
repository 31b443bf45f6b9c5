#include "optimized/simulator/shadow.h"

#include <bit>

namespace dsa::simulator {
namespace {

bool is_ordered(Deed before, const Actor& actor) {
    const Agent agent = before.agent();
    if (agent == actor.agent) return true;
    return actor.known != nullptr && agent < actor.known->size() && (*actor.known)[agent] >= before.clock();
}

// A generic write is before an asynchronous access only if a fence lies between.
bool is_fenced(Deed before, const Actor& actor) {
    if (!actor.async || before.async()) return true;
    const Agent agent = before.agent();
    return actor.fenced != nullptr && agent < actor.fenced->size() && (*actor.fenced)[agent] >= before.clock();
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
    for (const Seen& seen : lists[cell.list]) put_aside(seen.deed, seen.bytes);
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

Finding against_readers(const Cell& cell, unsigned bytes, Access access, const Actor& actor, const Lists& lists) {
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
    if (cell.list == 0 || (access == Access::read && (cell.list & Lists::has_atomics) == 0)) return {};
    for (const Seen& seen : lists[cell.list])
        if (is_race(seen.deed, seen.bytes))
            return {kind_of(seen.deed), seen.deed, static_cast<unsigned>(std::countr_zero(seen.bytes & bytes))};
    return {};
}

// Whether it is enough to remember the new one: whoever comes after it comes after the old one too.
bool replaces(Deed deed, unsigned bytes, Deed old, unsigned old_bytes, const Actor& actor) {
    return deed.atomic() == old.atomic() && (old_bytes & ~bytes) == 0 && is_ordered(old, actor);
}

void remember(Cell& cell, unsigned bytes, Deed deed, const Actor& actor, Lists& lists) {
    for (unsigned i = 0; i < 2; ++i) {
        const Deed old = cell.seen[i];
        if (old.agent() == deed.agent() && old.clock() == deed.clock() && old.atomic() == deed.atomic()) {
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
    std::vector<Seen>& list = lists[cell.list];
    // A list that grows is looked through for what need not be remembered: at 32, 64, 128, ...
    if (list.size() >= 32 && std::has_single_bit(list.size()))
        std::erase_if(list, [&](const Seen& old) { return replaces(deed, bytes, old.deed, old.bytes, actor); });
    list.push_back({deed, bytes});
    if (deed.atomic()) cell.list |= Lists::has_atomics;
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
    std::vector<Seen>& list = lists[cell.list];
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
            for (const Seen& seen : lists[cell.list]) add(seen.deed, seen.bytes);
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
