// What is there to learn? Sequences of bytes with the bytes that follow: from real texts, or made up so that the
// answer lies somewhere among many similar places.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "reference/numerics/array.h"

namespace dsa {

struct Sequence {
    Array<std::int32_t> tokens;   // [T]
    Array<std::int32_t> targets;  // [T], what follows each; -1 where the answer does not count
};

class Task {
   public:
    virtual ~Task() = default;
    virtual Index vocabulary() const = 0;
    // Sequence `number` of the training set, or of the held-out set. The same for the same arguments, always.
    virtual Sequence train(std::uint64_t seed, std::uint64_t number, Index T) const = 0;
    virtual Sequence held_out(std::uint64_t number, Index T) const = 0;
};

// {"kind": "text", "files": [...], "held_out": 0.1}: bytes; the last tenth of each file is held out.
// {"kind": "recall", "families": F, "members": M, "values": V, "pairs": N, "queries": Q}: N pairs of a key and a
// value in a random order with filler between them, then Q of the keys again, each to be followed by its value. A key
// is two tokens, a family and a member, so that every key has many that look like it (multi-query associative recall,
// Arora et al., arXiv 2312.04927, with needles among similar keys); without families it is a member alone. Two more
// entries are for the first stages of a curriculum. "hint": "values" also asks, at each value, for a token of the key
// that it belongs to, half of the way; "values and members" asks at each member for its family, too. "alike": A draws
// a sequence's keys from A families and A members only, so that neither token alone tells them apart. Paths are
// relative to `home`. Refuses unknown kinds and entries, and sizes that do not fit T.
std::unique_ptr<Task> task_from_json(const nlohmann::json& json, const std::filesystem::path& home, Index T);

}  // namespace dsa
