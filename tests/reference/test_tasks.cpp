// Are the questions of the recall task answerable, and is each answered by what was said before?
#include <doctest/doctest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "reference/refusal.h"
#include "reference/training/tasks.h"

namespace {

using namespace dsa;
using nlohmann::json;

constexpr int members = 5;
constexpr int values = 7;

std::unique_ptr<Task> recall(int families, int pairs, int queries, const std::string& hint, Index T, int alike = 0) {
    return task_from_json({{"kind", "recall"},
                           {"families", families},
                           {"members", members},
                           {"values", values},
                           {"pairs", pairs},
                           {"queries", queries},
                           {"hint", hint},
                           {"alike", alike}},
                          "", T);
}

bool is_member(int token) { return token >= 2 && token < 2 + members; }
bool is_value(int token) { return token >= 2 + members && token < 2 + members + values; }
bool is_family(int token) { return token >= 2 + members + values; }

// Reads a sequence as a person would, and checks every answer against what was said.
void check(const Sequence& s, int families, int pairs, int queries, const std::string& hint, int alike = 0) {
    std::map<std::pair<int, int>, int> said;  // (family, member) -> value
    const Index T = s.tokens.size();
    bool asking = false;
    int answers = 0;
    int hints = 0;
    std::map<bool, int> hinted;  // by whether the family was asked for
    std::set<int> families_seen, members_seen;
    const bool at_members = hint == "values and members" && families > 0;
    for (Index t = 0; t < T; ++t) {
        const int token = s.tokens[t];
        if (token == 1) {
            CHECK(!asking);
            asking = true;
        }
        if (is_value(token)) {
            const int family = families > 0 ? s.tokens[t - 2] : 0;
            const std::pair key{family, s.tokens[t - 1]};
            CHECK(is_member(key.second));
            if (families > 0) CHECK(is_family(family));
            if (asking) {
                REQUIRE(said.count(key) == 1);
                CHECK(said.at(key) == token);
                CHECK(s.targets[t - 1] == token);
                said.erase(key);  // asked once
                ++answers;
            } else {
                CHECK(said.emplace(key, token).second);
                families_seen.insert(family);
                members_seen.insert(key.second);
                if (hint != "none") {
                    CHECK((s.targets[t] == key.second || s.targets[t] == family));
                    ++hinted[s.targets[t] == family];
                    ++hints;
                }
                CHECK(s.targets[t - 1] == (at_members ? family : -1));
                hints += at_members ? 1 : 0;
            }
        }
    }
    CHECK(answers == queries);
    CHECK(hints == (hint == "none" ? 0 : at_members ? 2 * pairs : pairs));
    if (hint != "none" && families > 0) CHECK(std::abs(hinted[true] - hinted[false]) <= 1);
    if (alike > 0) {
        CHECK(static_cast<int>(families_seen.size()) <= alike);
        CHECK(static_cast<int>(members_seen.size()) <= alike);
    }
    int counted = 0;
    for (Index t = 0; t < T; ++t) counted += s.targets[t] >= 0 ? 1 : 0;
    CHECK(counted == answers + hints);
}

TEST_CASE("every question of the recall task has been answered before, once") {
    for (const int families : {0, 1, 3})
        for (const std::string hint : {"none", "values", "values and members"})
            for (const Index T : {40, 41, 64}) {
                const int pairs = 5;
                const int queries = 4;
                const auto task = recall(families, pairs, queries, hint, T);
                CHECK(task->vocabulary() == 2 + members + values + families);
                for (std::uint64_t number = 0; number < 20; ++number) {
                    check(task->train(3, number, T), families, pairs, queries, hint);
                    check(task->held_out(number, T), families, pairs, queries, hint);
                }
            }
}

TEST_CASE("all keys at once fill a sequence to its last token") {
    check(recall(3, 15, 15, "none", 91)->train(1, 2, 91), 3, 15, 15, "none");
    check(recall(0, 5, 5, "values", 21)->train(1, 2, 21), 0, 5, 5, "values");
    CHECK_THROWS_AS(recall(3, 15, 15, "none", 90), Refusal);
    CHECK_THROWS_AS(recall(0, 6, 2, "none", 90), Refusal);
}

TEST_CASE("keys that are alike come from a few families and members, any of them") {
    const auto task = recall(3, 4, 3, "none", 40, 2);
    std::set<int> families, members_seen;
    for (std::uint64_t number = 0; number < 40; ++number) {
        const Sequence s = task->train(3, number, 40);
        check(s, 3, 4, 3, "none", 2);
        for (Index t = 0; t < 40; ++t) (is_family(s.tokens[t]) ? families : members_seen).insert(s.tokens[t]);
    }
    CHECK(families.size() == 3);
    for (int member = 0; member < members; ++member) CHECK(members_seen.count(2 + member) == 1);
    CHECK_THROWS_AS(recall(3, 5, 3, "none", 40, 2), Refusal);
    CHECK_THROWS_AS(recall(3, 4, 3, "none", 40, 4), Refusal);
    CHECK_THROWS_AS(recall(0, 4, 3, "none", 40, 2), Refusal);
}

TEST_CASE("sequences differ by seed and number, and are the same again") {
    const auto task = recall(3, 10, 5, "none", 64);
    const auto tokens = [&](std::uint64_t seed, std::uint64_t number) {
        const Array<std::int32_t> all = task->train(seed, number, 64).tokens;
        return std::vector<int>(&all[0], &all[0] + all.size());
    };
    CHECK(tokens(1, 2) == tokens(1, 2));
    CHECK(tokens(1, 2) != tokens(1, 3));
    CHECK(tokens(1, 2) != tokens(2, 2));
}

}  // namespace
