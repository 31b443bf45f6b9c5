// Vector clocks: who knows of whose deeds. An agent's clock counts what it has handed on; a deed is known by its
// agent and the clock at which it was done. After Flanagan and Freund, "FastTrack: efficient and precise dynamic race
// detection", PLDI 2009: one deed is an epoch, and only what has several unordered readers needs more.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace dsa::simulator {

using Agent = std::uint32_t;
using Clock = std::uint32_t;

// By agent: all its deeds up to this clock. Agents beyond the end: nothing.
class Clocks : public std::vector<Clock> {
   public:
    Clocks() = default;
    Clocks(const Clocks& other) : std::vector<Clock>(other) {}
    Clocks& operator=(const Clocks&) = delete;
    // No two have the same, also of those that are no more.
    std::uint64_t serial() const { return serial_; }

   private:
    static std::uint64_t next() {
        static std::atomic<std::uint64_t> last{0};
        return last.fetch_add(1, std::memory_order_relaxed) + 1;
    }
    std::uint64_t serial_ = next();
};
// Shared by all who learned the same, and never changed; nullptr: nothing.
using Knowledge = std::shared_ptr<const Clocks>;

inline bool covers(const Knowledge& known, Agent agent, Clock clock) {
    return known != nullptr && agent < known->size() && (*known)[agent] >= clock;
}

inline void take_larger(Clocks& of, const Knowledge& other) {
    if (other == nullptr) return;
    if (of.size() < other->size()) of.resize(other->size());
    for (std::size_t i = 0; i < other->size(); ++i) of[i] = std::max(of[i], (*other)[i]);
}

using Deeds = std::vector<std::pair<Agent, Clock>>;

// What somebody knows, not put together: all of `clocks`, and of each agent of `deeds` all up to a clock.
struct View {
    const Clocks* clocks = nullptr;
    const Deeds* deeds = nullptr;

    bool covers(Agent agent, Clock clock) const {
        if (clocks != nullptr && agent < clocks->size() && (*clocks)[agent] >= clock) return true;
        if (deeds == nullptr || deeds->empty()) return false;
        // A warp's lanes come one after the other.
        const std::size_t at = std::size_t{agent} - deeds->front().first;
        if (at < deeds->size() && (*deeds)[at].first == agent) return (*deeds)[at].second >= clock;
        return std::any_of(deeds->begin(), deeds->end(),
                           [&](const auto& deed) { return deed.first == agent && deed.second >= clock; });
    }
};

// Whether who knows `more` learns nothing from `less`.
inline bool contains(const Clocks& more, const Clocks& less) {
    const std::size_t shared = std::min(more.size(), less.size());
    bool any_later = false;  // no early end: so it is done by vectors
    for (std::size_t i = 0; i < shared; ++i) any_later |= less[i] > more[i];
    return !any_later && std::all_of(less.begin() + static_cast<std::ptrdiff_t>(shared), less.end(),
                                     [](Clock clock) { return clock == 0; });
}

// What several agents knew and did, put together when somebody asks.
class Joined {
   public:
    void add(const Knowledge& known) {
        if (known == nullptr) return;
        if (std::find(parts_.begin(), parts_.end(), known) == parts_.end()) parts_.push_back(known);
        all_ = nullptr;
    }
    void add(Agent agent, Clock clock) {
        deeds_.emplace_back(agent, clock);
        all_ = nullptr;
    }
    // The parts, not what they come to: operations of one thread have most of them in common.
    void add(const Joined& other) {
        for (const Knowledge& part : other.parts_) add(part);
        deeds_.insert(deeds_.end(), other.deeds_.begin(), other.deeds_.end());
        all_ = nullptr;
    }
    View view() {
        if (parts_.size() > 1) return {all().get(), nullptr};
        return {parts_.empty() ? nullptr : parts_[0].get(), &deeds_};
    }
    const Knowledge& all() {
        if (all_ != nullptr || (parts_.empty() && deeds_.empty())) return all_;
        if (parts_.size() == 1 && deeds_.empty()) return all_ = parts_[0];
        auto sum = std::make_shared<Clocks>();
        for (const Knowledge& part : parts_) take_larger(*sum, part);
        Agent last = 0;
        for (const auto& [agent, clock] : deeds_) last = std::max(last, agent);
        if (!deeds_.empty() && sum->size() <= last) sum->resize(last + 1);
        for (const auto& [agent, clock] : deeds_) (*sum)[agent] = std::max((*sum)[agent], clock);
        return all_ = std::move(sum);
    }
    // What somebody who knows `known` knows after learning all of this.
    Knowledge learned_by(const Knowledge& known) {
        const Knowledge& sum = all();
        if (sum == nullptr || known == sum) return known;
        if (known == nullptr || std::find(parts_.begin(), parts_.end(), known) != parts_.end()) return sum;
        // Lanes that knew the same learn the same.
        if (known == last_asked_ && sum == last_sum_) return last_answer_;
        last_asked_ = known;
        last_sum_ = sum;
        // Where one of the two is all there is, no third comes to be: who knows the same has the same.
        if (contains(*sum, *known)) return last_answer_ = sum;
        if (contains(*known, *sum)) return last_answer_ = known;
        auto both = std::make_shared<Clocks>(*known);
        take_larger(*both, sum);
        return last_answer_ = std::move(both);
    }

    bool is_empty() const { return parts_.empty() && deeds_.empty(); }

    // Nothing was added; the memory stays for the next ones.
    void clear() {
        parts_.clear();
        deeds_.clear();
        all_ = last_asked_ = last_sum_ = last_answer_ = nullptr;
    }

   private:
    std::vector<Knowledge> parts_;
    Deeds deeds_;
    Knowledge all_;
    Knowledge last_asked_, last_sum_, last_answer_;
};

}  // namespace dsa::simulator
