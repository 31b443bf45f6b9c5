#include "optimized/simulator/engine.h"

#include <algorithm>

namespace dsa::simulator {

std::uint64_t Engine::later(Job job, std::uint64_t earliest) {
    // At once, within this round, within some rounds, or so late that somebody will have to wait for it.
    const std::uint64_t longest[] = {2, threads_, 16 * threads_, 256 * threads_};
    const std::uint64_t most = longest[schedule_.draw(4)];
    const std::uint64_t due = std::max(now_ + 1 + schedule_.draw(static_cast<std::uint32_t>(most)), earliest);
    jobs_.emplace(std::pair{due, count_++}, std::move(job));
    return due;
}

void Engine::do_first() {
    const auto node = jobs_.extract(jobs_.begin());  // the work may bring new jobs
    node.mapped().work();
}

bool Engine::tick() {
    ++now_;
    bool any = false;
    for (; !jobs_.empty() && jobs_.begin()->first.first <= now_; any = true) do_first();
    return any;
}

bool Engine::hurry() {
    if (jobs_.empty()) return false;
    now_ = std::max(now_, jobs_.begin()->first.first);
    do_first();
    return true;
}

const Engine::Job* Engine::using_memory_of(const Block& block) const {
    for (const auto& [key, job] : jobs_)
        if (std::find(job.uses.begin(), job.uses.end(), &block) != job.uses.end()) return &job;
    return nullptr;
}

std::vector<Origin> Engine::under_way() const {
    std::vector<Origin> all;
    for (const auto& [key, job] : jobs_) all.push_back(job.origin);
    return all;
}

}  // namespace dsa::simulator
