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
// {"kind": "recall", "keys": K, "values": V, "pairs": N, "queries": M, "families": F}: N pairs of a key and a value
// in a random order with filler between them, then M of the keys again, each to be followed by its value. A key is
// two tokens, a family and a member, so that every key has many that look like it (multi-query associative recall,
// Arora et al., arXiv 2312.04927, with needles among similar keys). Paths are relative to `home`. Refuses unknown
// kinds and entries, and sizes that do not fit T.
std::unique_ptr<Task> task_from_json(const nlohmann::json& json, const std::filesystem::path& home, Index T);

}  // namespace dsa
