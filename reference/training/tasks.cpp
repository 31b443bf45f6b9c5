#include "reference/training/tasks.h"

#include <algorithm>
#include <numeric>

#include "reference/files/json_object.h"
#include "reference/files/whole_file.h"
#include "reference/numerics/philox.h"

namespace dsa {
namespace {

class Text : public Task {
   public:
    Text(const JsonObject& settings, const std::filesystem::path& home, Index T) {
        const double share = settings.number("held_out", 0.1, 0.0, 0.5);
        for (const std::string& file : settings.texts("files")) {
            const std::vector<std::byte> bytes = read_whole_file(home / file, std::uintmax_t{1} << 28);
            const auto kept = static_cast<std::size_t>(static_cast<double>(bytes.size()) * (1.0 - share));
            const auto longest = static_cast<std::size_t>(T) + 1;
            require(kept >= longest && bytes.size() - kept >= longest, "the text ", file, " must have ", longest,
                    " bytes to train on and as many held out; it has ", kept, " and ", bytes.size() - kept,
                    ": take a longer text or shorter sequences");
            trained_.push_back({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(kept)});
            held_out_.push_back({bytes.begin() + static_cast<std::ptrdiff_t>(kept), bytes.end()});
        }
    }
    Index vocabulary() const override { return 256; }
    // A place drawn evenly from all places of all files.
    Sequence train(std::uint64_t seed, std::uint64_t number, Index T) const override {
        std::uint64_t places = 0;
        for (const auto& text : trained_) places += text.size() - static_cast<std::size_t>(T);
        std::uint64_t place = RandomTensor{seed, stream}.below(static_cast<std::uint32_t>(places), number);
        for (const auto& text : trained_) {
            const std::uint64_t own = text.size() - static_cast<std::size_t>(T);
            if (place < own) return cut(text, place, T);
            place -= own;
        }
        return {};  // not reached: place < places
    }
    // One text after the other, piece by piece, from the start again when all have been seen.
    Sequence held_out(std::uint64_t number, Index T) const override {
        std::uint64_t pieces = 0;
        for (const auto& text : held_out_) pieces += (text.size() - 1) / static_cast<std::size_t>(T);
        std::uint64_t piece = number % pieces;
        for (const auto& text : held_out_) {
            const std::uint64_t own = (text.size() - 1) / static_cast<std::size_t>(T);
            if (piece < own) return cut(text, piece * static_cast<std::uint64_t>(T), T);
            piece -= own;
        }
        return {};  // not reached: piece < pieces
    }

   private:
    static constexpr std::uint32_t stream = 0x74657874;  // "text"
    static Sequence cut(const std::vector<std::byte>& text, std::uint64_t first, Index T) {
        Sequence s{Array<std::int32_t>({T}), Array<std::int32_t>({T})};
        for (Index t = 0; t < T; ++t) {
            s.tokens[t] = static_cast<std::int32_t>(text[first + static_cast<std::uint64_t>(t)]);
            s.targets[t] = static_cast<std::int32_t>(text[first + static_cast<std::uint64_t>(t) + 1]);
        }
        return s;
    }
    std::vector<std::vector<std::byte>> trained_, held_out_;
};

// Tokens: 0 filler, 1 "now answer", then members, values, families: a stage with fewer families has the same tokens.
class Recall : public Task {
   public:
    Recall(const JsonObject& settings, Index T)
        : families_(settings.whole("families", 8, 0, 1 << 10)),
          members_(settings.whole("members", 16, 1, 1 << 10)),
          values_(settings.whole("values", 32, 2, 1 << 10)),
          pairs_(settings.whole("pairs", 32, 1, 1 << 16)),
          queries_(settings.whole("queries", 8, 1, 1 << 16)),
          hint_(settings.text("hint", {"none", "values", "values and members"}, true)),
          alike_(settings.whole("alike", 0, 0, std::min(families_, members_))),
          slot_(families_ == 0 ? 2 : 3) {
        require(pairs_ <= keys(),
                "\"pairs\" must be at most families x members (members, without families; alike x alike, "
                "where given), ",
                keys(), " different keys; it is ", pairs_);
        require(queries_ <= pairs_, "\"queries\" must be at most \"pairs\", ", pairs_, "; it is ", queries_);
        require(slot_ * (pairs_ + queries_) + 1 <= T, "a sequence must hold ", slot_,
                " x (pairs + queries) + 1 = ", slot_ * (pairs_ + queries_) + 1, " tokens; its length is ", T);
    }
    Index vocabulary() const override { return 2 + members_ + values_ + families_; }
    Sequence train(std::uint64_t seed, std::uint64_t number, Index T) const override {
        return made({seed, stream}, number, T);
    }
    Sequence held_out(std::uint64_t number, Index T) const override {
        return made({~std::uint64_t{0}, stream}, number, T);
    }

   private:
    static constexpr std::uint32_t stream = 0x72656361;  // "reca"

    // How many different ones a sequence may have.
    Index keys() const { return alike_ > 0 ? alike_ * alike_ : std::max<Index>(1, families_) * members_; }

    // A key and its value from place `at` on. -> the value's place
    std::size_t put(std::vector<std::int32_t>& tokens, Index at, Index key, Index value) const {
        auto i = static_cast<std::size_t>(at);
        if (families_ > 0) tokens[i++] = static_cast<std::int32_t>(2 + members_ + values_ + key / members_);
        tokens[i++] = static_cast<std::int32_t>(2 + key % members_);
        tokens[i] = static_cast<std::int32_t>(2 + members_ + value);
        return i;
    }

    Sequence made(RandomTensor random, std::uint64_t number, Index T) const {
        std::uint64_t drawn = 0;
        const auto below = [&](Index count) {
            return static_cast<Index>(
                random.below(static_cast<std::uint32_t>(count), number, static_cast<std::uint32_t>(drawn++)));
        };
        // The first `count` of 0 ... all - 1 in a random order.
        const auto some = [&](Index count, Index all) {
            std::vector<Index> numbers(static_cast<std::size_t>(all));
            std::iota(numbers.begin(), numbers.end(), Index{0});
            for (std::size_t i = numbers.size(); i > 1; --i)
                std::swap(numbers[i - 1], numbers[static_cast<std::size_t>(below(static_cast<Index>(i)))]);
            numbers.resize(static_cast<std::size_t>(count));
            return numbers;
        };
        std::vector<Index> chosen = some(pairs_, keys());
        if (alike_ > 0) {
            const std::vector<Index> families = some(alike_, families_);
            const std::vector<Index> members = some(alike_, members_);
            for (Index& key : chosen)
                key = families[static_cast<std::size_t>(key / alike_)] * members_ +
                      members[static_cast<std::size_t>(key % alike_)];
        }
        std::vector<Index> values;
        for (Index i = 0; i < pairs_; ++i) values.push_back(below(values_));
        // Every slot before the questions is a pair or filler.
        const Index slots = (T - 1 - slot_ * queries_) / slot_;
        const std::vector<Index> places = some(pairs_, slots);

        std::vector<std::int32_t> tokens(static_cast<std::size_t>(T) + 1, 0);
        std::vector<std::int32_t> targets(tokens.size(), -1);
        for (std::size_t i = 0; i < chosen.size(); ++i) {
            const std::size_t value_at = put(tokens, slot_ * places[i], chosen[i], values[i]);
            // A value's key has two tokens: either is asked for in turn. A member's family stands just before it.
            if (hint_ != "none") targets[value_at] = tokens[value_at - (families_ > 0 && i % 2 == 1 ? 2 : 1)];
            if (hint_ == "values and members" && families_ > 0) targets[value_at - 1] = tokens[value_at - 2];
        }
        Index at = slot_ * slots;
        tokens[static_cast<std::size_t>(at++)] = 1;
        for (const Index asked : some(queries_, pairs_)) {
            const auto i = static_cast<std::size_t>(asked);
            const std::size_t value_at = put(tokens, at, chosen[i], values[i]);
            targets[value_at - 1] = tokens[value_at];
            at += slot_;
        }
        Sequence s{Array<std::int32_t>({T}), Array<std::int32_t>({T})};
        for (Index t = 0; t < T; ++t) {
            s.tokens[t] = tokens[static_cast<std::size_t>(t)];
            s.targets[t] = targets[static_cast<std::size_t>(t)];
        }
        return s;
    }
    Index families_, members_, values_, pairs_, queries_;
    std::string hint_;
    Index alike_;  // families and members of one sequence; 0: all
    Index slot_;   // tokens of a key and its value
};

}  // namespace

std::unique_ptr<Task> task_from_json(const nlohmann::json& json, const std::filesystem::path& home, Index T) {
    const JsonObject settings(json, "task");
    const std::string kind = settings.text("kind", {"text", "recall"});
    std::unique_ptr<Task> task;
    if (kind == "text")
        task = std::make_unique<Text>(settings, home, T);
    else
        task = std::make_unique<Recall>(settings, T);
    settings.refuse_others();
    return task;
}

}  // namespace dsa
