#include "reference/training/tasks.h"

#include <algorithm>
#include <numeric>

#include "reference/files/json_file.h"
#include "reference/files/whole_file.h"
#include "reference/numerics/philox.h"
#include "reference/training/recipe.h"

namespace dsa {
namespace {

class Text : public Task {
   public:
    Text(const Settings& settings, const std::filesystem::path& home, Index T) {
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

// Tokens: 0 filler, 1 "now answer", then families, members, values.
class Recall : public Task {
   public:
    Recall(const Settings& settings, Index T)
        : families_(settings.whole("families", 8, 1, 1 << 10)),
          members_(settings.whole("members", 16, 1, 1 << 10)),
          values_(settings.whole("values", 32, 2, 1 << 10)),
          pairs_(settings.whole("pairs", 32, 1, 1 << 16)),
          queries_(settings.whole("queries", 8, 1, 1 << 16)) {
        require(pairs_ <= families_ * members_, "\"pairs\" must be at most families x members, ",
                families_ * members_, " different keys; it is ", pairs_);
        require(queries_ <= pairs_, "\"queries\" must be at most \"pairs\", ", pairs_, "; it is ", queries_);
        require(3 * (pairs_ + queries_) + 1 <= T,
                "a sequence must hold 3 x (pairs + queries) + 1 = ", 3 * (pairs_ + queries_) + 1,
                " tokens; its length is ", T);
    }
    Index vocabulary() const override { return 2 + families_ + members_ + values_; }
    Sequence train(std::uint64_t seed, std::uint64_t number, Index T) const override {
        return made({seed, stream}, number, T);
    }
    Sequence held_out(std::uint64_t number, Index T) const override {
        return made({~std::uint64_t{0}, stream}, number, T);
    }

   private:
    static constexpr std::uint32_t stream = 0x72656361;  // "reca"

    Sequence made(RandomTensor random, std::uint64_t number, Index T) const {
        std::uint64_t drawn = 0;
        const auto below = [&](Index count) {
            return static_cast<Index>(
                random.below(static_cast<std::uint32_t>(count), number, static_cast<std::uint32_t>(drawn++)));
        };
        const auto shuffle = [&](std::vector<Index>& all) {
            for (std::size_t i = all.size(); i > 1; --i)
                std::swap(all[i - 1], all[static_cast<std::size_t>(below(static_cast<Index>(i)))]);
        };
        std::vector<Index> keys(static_cast<std::size_t>(families_ * members_));
        std::iota(keys.begin(), keys.end(), Index{0});
        shuffle(keys);
        keys.resize(static_cast<std::size_t>(pairs_));
        std::vector<Index> values;
        for (Index i = 0; i < pairs_; ++i) values.push_back(below(values_));
        // Where pairs stand: every slot of three before the questions is a pair or filler.
        const Index slots = (T - 1 - 3 * queries_) / 3;
        std::vector<Index> places(static_cast<std::size_t>(slots));
        std::iota(places.begin(), places.end(), Index{0});
        shuffle(places);

        std::vector<std::int32_t> stream_of(static_cast<std::size_t>(T) + 1, 0);
        std::vector<bool> counts(stream_of.size(), false);
        const auto put = [&](Index at, Index key, Index value) {
            const auto i = static_cast<std::size_t>(at);
            stream_of[i] = static_cast<std::int32_t>(2 + key / members_);
            stream_of[i + 1] = static_cast<std::int32_t>(2 + families_ + key % members_);
            stream_of[i + 2] = static_cast<std::int32_t>(2 + families_ + members_ + value);
        };
        for (std::size_t i = 0; i < keys.size(); ++i) put(3 * places[i], keys[i], values[i]);
        const Index now = 3 * slots;
        stream_of[static_cast<std::size_t>(now)] = 1;
        std::vector<Index> asked(keys.size());
        std::iota(asked.begin(), asked.end(), Index{0});
        shuffle(asked);
        for (Index i = 0; i < queries_; ++i) {
            const auto which = static_cast<std::size_t>(asked[static_cast<std::size_t>(i)]);
            put(now + 1 + 3 * i, keys[which], values[which]);
            counts[static_cast<std::size_t>(now + 1 + 3 * i + 2)] = true;
        }
        Sequence s{Array<std::int32_t>({T}), Array<std::int32_t>({T}, -1)};
        for (Index t = 0; t < T; ++t) {
            const auto i = static_cast<std::size_t>(t);
            s.tokens[t] = stream_of[i];
            if (counts[i + 1]) s.targets[t] = stream_of[i + 1];
        }
        return s;
    }
    Index families_, members_, values_, pairs_, queries_;
};

}  // namespace

std::unique_ptr<Task> task_from_json(const nlohmann::json& json, const std::filesystem::path& home, Index T) {
    const Settings settings(json, "task");
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
