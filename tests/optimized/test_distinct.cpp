// Which slots count (attention/distinct.cuh): of each index the first slot, however many are late, twice or nowhere.
#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "kernels.h"
#include "optimized/attention/distinct.cuh"

namespace {

using namespace dsa;
using namespace dsa::testing;

constexpr int threads = 64, most = 256, rows = 1 << 20, of_all = 1;
using Selection = DistinctSlots<threads, most, 9>;

struct Shared {
    Selection::Table table;
    Selection selection;
};

void find(const int* row, int end, std::uint32_t* counts, int* lates) {
    Shared& memory = shared<Shared>();
    const int thread = static_cast<int>(threadIdx.x);
    memory.selection.find(memory.table, row, end, rows, thread, of_all);
    if (thread == 0) *lates = memory.table.lates;
    if (thread < most / 32) memory.table.twice[thread] = 7;  // the table is free again
    if (thread == 1) memory.table.rounds = 7;
    barrier_sync(of_all, threads);
    if (thread < most / 32) counts[thread] = memory.selection.counts[thread];
}

// Returns how many were late. Slots past `row` are never read: the simulator would say so.
int check(const std::vector<int>& row) {
    std::vector<std::uint32_t> counts(most / 32);
    int lates = -1;
    CHECK(refusal_of(find, {.blocks = 1, .threads = threads, .shared_bytes = sizeof(Shared)}, row.data(),
                     static_cast<int>(row.size()), counts.data(), &lates) == "");
    std::set<int> seen;
    for (int i = 0; i < most; ++i) {
        const auto slot = static_cast<std::size_t>(i);
        const bool there = slot < row.size() && row[slot] >= 0 && row[slot] < rows;
        CAPTURE(i);
        CHECK((counts[slot / 32] >> i % 32 & 1) == (there && seen.insert(row[slot]).second ? 1 : 0));
    }
    return lates;
}

std::mt19937 generator(5);

std::vector<int> distinct(int count) {
    std::set<int> drawn;
    while (static_cast<int>(drawn.size()) < count)
        drawn.insert(std::uniform_int_distribution<int>(0, rows - 1)(generator));
    std::vector<int> row(drawn.begin(), drawn.end());
    std::shuffle(row.begin(), row.end(), generator);
    return row;
}

std::uint32_t hash(int index) { return static_cast<std::uint32_t>(index) * 0x9e3779b9U >> 24; }

// Indices of which each sets the same bit, or one of its own.
std::vector<int> of_one_bit(int count) {
    std::vector<int> row;
    for (int index = 7; static_cast<int>(row.size()) < count; ++index)
        if (hash(index) == hash(7)) row.push_back(index);
    return row;
}

std::vector<int> of_many_bits(int count) {
    std::vector<int> row;
    std::set<std::uint32_t> bits;
    for (int index = 7; static_cast<int>(row.size()) < count; ++index)
        if (bits.insert(hash(index)).second) row.push_back(index);
    return row;
}

TEST_CASE("a row without repeats counts, and few are late") {
    with_seeds(3, [] {
        const int lates = check(distinct(60));
        CHECK(lates > 0);
        CHECK(lates <= Selection::most_late);
    });
}

TEST_CASE("of a pair the higher slot does not count, whichever of the two is late") {
    with_seeds(8, [] {
        std::vector<int> row = distinct(40);
        row[39] = row[0];  // a warp apart
        row[20] = row[19];
        row[5] = row[38] = row[6];
        CHECK(check(row) <= Selection::most_late);
    });
}

TEST_CASE("slots that are none, before and among the others") {
    std::vector<int> row = distinct(50);
    for (const int i : {0, 1, 31, 49}) row[static_cast<std::size_t>(i)] = -1;
    row[7] = rows;
    row[8] = -2;  // what an empty place in the list of late ones holds
    row[9] = -2;
    row[10] = std::numeric_limits<int>::max();
    row[11] = std::numeric_limits<int>::min();
    check(row);
    check(std::vector<int>(most, -1));
    check({});
    check({3});
}

TEST_CASE("different indices at one bit") {
    std::vector<int> row = of_one_bit(20);
    CHECK(check(row) == 19);
    row[19] = row[0];
    row[1] = row[18];
    CHECK(check(row) == 19);
}

TEST_CASE("more late ones than are listed: in rounds") {
    with_seeds(3, [] {
        CHECK(check(distinct(most)) > Selection::most_late);
        CHECK(check(of_one_bit(Selection::most_late + 2)) == Selection::most_late + 1);
        CHECK(check(std::vector<int>(most, 7)) > Selection::most_late);
        std::vector<int> row = distinct(most);
        for (std::size_t i = 0; i < most; ++i) row[i] = row[i * i % 61];
        check(row);
    });
}

TEST_CASE("as many late ones as are listed, each the like of one that is not, and one more") {
    const std::vector<int> pairs = of_many_bits(Selection::most_late + 1);
    for (const int missing : {1, 0}) {
        std::vector<int> row(pairs.begin(), pairs.end() - missing);
        row.insert(row.end(), row.begin(), row.end());
        with_seeds(3, [&] { CHECK(check(row) == Selection::most_late + 1 - missing); });
    }
}

}  // namespace
