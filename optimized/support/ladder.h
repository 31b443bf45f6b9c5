// An op's ladder of levels: which there are, what each takes, and which one runs.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "golden/dsa.h"
#include "optimized/support/refusal.h"

namespace dsa {

// What is known of a level without running it.
struct LevelTitle {
    int number;
    std::string title;  // one idea, in a few words
};

// The level that the next calls of this thread run; 0: the highest that takes the call.
int chosen_level();
void choose_level(int level);

// All ladders, by op, for the tools.
struct LadderEntry {
    std::string op;
    std::vector<LevelTitle> levels;
};
std::vector<LadderEntry>& all_ladders();

template <class Call>
struct Level {
    std::string title;
    void (*run)(const Call&);
    // Why this level does not take a call; empty if it does. Null: it takes every call.
    std::string (*declines)(const Call&) = nullptr;
    // Bytes of workspace that it needs. Null: none.
    std::int64_t (*workspace)(const Call&) = nullptr;
};

// Levels 1, 2, ... in their order. Level 1 takes every call of the contract that its op can be asked.
template <class Call>
class Ladder {
   public:
    Ladder(std::string op, std::vector<Level<Call>> levels) : op_(std::move(op)), levels_(std::move(levels)) {
        LadderEntry entry{op_, {}};
        for (std::size_t i = 0; i < levels_.size(); ++i)
            entry.levels.push_back({static_cast<int>(i) + 1, levels_[i].title});
        all_ladders().push_back(std::move(entry));
    }

    void run(const Call& call) const { chosen(call).run(call); }
    std::int64_t workspace(const Call& call) const {
        const Level<Call>& level = chosen(call);
        return level.workspace == nullptr ? 0 : level.workspace(call);
    }

   private:
    const Level<Call>& chosen(const Call& call) const {
        const auto count = static_cast<int>(levels_.size());
        if (const int number = chosen_level(); number != 0) {
            if (number < 1 || number > count)
                refuse(Status::not_implemented, op_, " has the levels 1 to ", count, "; there is no level ", number);
            const Level<Call>& level = levels_[static_cast<std::size_t>(number) - 1];
            const std::string why = level.declines == nullptr ? "" : level.declines(call);
            if (!why.empty()) refuse(Status::not_implemented, op_, ", level ", number, " (", level.title, "): ", why);
            return level;
        }
        std::string why;
        for (int i = count - 1; i >= 0; --i) {
            const Level<Call>& level = levels_[static_cast<std::size_t>(i)];
            why = level.declines == nullptr ? "" : level.declines(call);
            if (why.empty()) return level;
        }
        refuse(Status::not_implemented, op_, ": ", why);
    }

    std::string op_;
    std::vector<Level<Call>> levels_;
};

namespace detail {
int answered(void (*body)(void*), void* what) noexcept;
}

// Runs the body of a C function; whatever it throws becomes a status and the sentence of dsa_last_error().
// (Not a std::function: its header would be a third of what a kernel's source reads.)
template <class Body>
int answered(Body body) noexcept {
    return detail::answered([](void* what) { (*static_cast<Body*>(what))(); }, &body);
}
// The same for dsa_OP_workspace: bytes, or minus the status.
template <class Body>
std::int64_t measured(Body body) noexcept {
    std::int64_t bytes = 0;
    const int status = answered([&] { bytes = body(); });
    return status == 0 ? bytes : -std::int64_t{status};
}

// Refuses a machine without an sm_90 device, and a workspace that is too small or missing.
void require_device();
void require_workspace(const void* workspace, std::int64_t bytes, std::int64_t needed);

}  // namespace dsa
