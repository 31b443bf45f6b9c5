#include "optimized/simulator/trace.h"

#include <fstream>
#include <map>
#include <mutex>

#include "optimized/simulator/block.h"

namespace dsa::simulator {
namespace {

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        out += c;
    }
    return out + "\"";
}

class Trace final : public Order {
   public:
    Trace(const std::string& file, Order& next) : next_(next), out_(file) {
        if (!out_) throw Fault("DSA_SIMULATOR_TRACE names a file that cannot be written: " + file);
        out_ << "[";
    }
    ~Trace() override { out_ << "\n]\n"; }

    void grid_begins() override { next_.grid_begins(); }
    void grid_ends(bool failed) override {
        {
            const std::lock_guard lock(mutex_);
            out_.flush();
        }
        next_.grid_ends(failed);
    }
    void block_begins(const Block& block) override {
        {
            const std::lock_guard lock(mutex_);
            blocks_[&block] = ++processes_;
            write("process_name", 'M', block, 0, 0,
                  "\"args\":{\"name\":" + quoted("block " + text_of(block.index())) + "}");
        }
        next_.block_begins(block);
    }
    void block_ends(const Block& block) override {
        {
            const std::lock_guard lock(mutex_);
            turn_is_over();
            for (const Thread& thread : block.threads()) waits_.erase(&thread);
            blocks_.erase(&block);
        }
        next_.block_ends(block);
    }
    void takes_turn(const Thread& thread) override {
        {
            const std::lock_guard lock(mutex_);
            turn_is_over();
            current = &thread;
            began = ++now_;
            const auto wait = waits_.find(&thread);
            if (wait != waits_.end()) {
                write(wait->second.second, 'X', *thread.block, thread.number, wait->second.first,
                      "\"dur\":" + std::to_string(now_ - wait->second.first));
                waits_.erase(wait);
            }
        }
        next_.takes_turn(thread);
    }

    void release(const Thread& by, Round to) override { next_.release(by, to); }
    void acquire(const Thread& by, Round from) override { next_.acquire(by, from); }
    void fence_proxy_async(const Thread& by, Where where) override {
        tell("fence.proxy.async at " + text_of(where), by);
        next_.fence_proxy_async(by, where);
    }
    void reads(const Thread& by, const void* bytes, std::size_t count, Where where) override {
        next_.reads(by, bytes, count, where);
    }
    void writes(const Thread& by, const void* bytes, std::size_t count, Where where) override {
        next_.writes(by, bytes, count, where);
    }
    // The numbers that the next listener gives may all be the same: it may be nobody.
    Operation begins(const Thread& by, Proxy through, const char* what, Where where) override {
        const Operation inside = next_.begins(by, through, what, where);
        const std::lock_guard lock(mutex_);
        under_way_[++operations_] = {inside, &by, std::string(what) + " of " + text_of(where), now_};
        return operations_;
    }
    void begins_also(Operation operation, const Thread& by) override { next_.begins_also(inside(operation), by); }
    void reads(Operation operation, const void* bytes, std::size_t count) override {
        next_.reads(inside(operation), bytes, count);
    }
    void writes(Operation operation, const void* bytes, std::size_t count) override {
        next_.writes(inside(operation), bytes, count);
    }
    void release(Operation operation, Round to) override { next_.release(inside(operation), to); }
    void acquire(const Thread& by, Operation operation, Part part) override {
        next_.acquire(by, inside(operation), part);
    }
    // Shown in a row of its own, beside the thread that asked for it: from then until it has told its object that it
    // is done, or until its group was waited for.
    void ends(Operation operation) override {
        next_.ends(inside(operation));
        const std::lock_guard lock(mutex_);
        const UnderWay& it = under_way_.at(operation);
        if (blocks_.contains(it.by->block))
            write(it.what, 'X', *it.by->block, beside + it.by->number, it.began,
                  "\"dur\":" + std::to_string(now_ - it.began));
        under_way_.erase(operation);
    }

   private:
    static constexpr std::uint64_t most_events = 2'000'000;  // a page shows no more
    static constexpr unsigned beside = 10'000;               // the row of a thread's operations, from its own

    struct UnderWay {
        Operation inside;  // the next listener's number
        const Thread* by;
        std::string what;
        std::uint64_t began;
    };

    Operation inside(Operation operation) {
        const std::lock_guard lock(mutex_);
        return under_way_.at(operation).inside;
    }

    // Of this thread of the operating system: who has the turn, and since when.
    static thread_local const Thread* current;
    static thread_local std::uint64_t began;

    void write(const std::string& name, char phase, const Block& block, unsigned thread, std::uint64_t time,
               const std::string& more) {
        if (events_++ >= most_events) return;
        out_ << (events_ > 1 ? ",\n" : "\n") << "{\"name\":" << quoted(name) << ",\"ph\":\"" << phase
             << "\",\"pid\":" << blocks_[&block] << ",\"tid\":" << thread << ",\"ts\":" << time
             << (more.empty() ? "" : ",") << more << "}";
    }
    void turn_is_over() {
        if (current == nullptr || !blocks_.contains(current->block)) return;
        write("runs", 'X', *current->block, current->number, began, "\"dur\":1");
        if (current->waits_for != nullptr) waits_[current] = {began + 1, current->waits_for()};
        current = nullptr;
    }
    void tell(const std::string& what, const Thread& by) {
        const std::lock_guard lock(mutex_);
        write(what, 'i', *by.block, by.number, now_, "\"s\":\"t\"");
    }

    Order& next_;
    std::ofstream out_;
    std::mutex mutex_;
    std::uint64_t now_ = 0;
    std::uint64_t events_ = 0;
    std::uint64_t processes_ = 0;
    Operation operations_ = 0;
    std::map<Operation, UnderWay> under_way_;
    std::map<const Block*, std::uint64_t> blocks_;
    std::map<const Thread*, std::pair<std::uint64_t, std::string>> waits_;
};

thread_local const Thread* Trace::current = nullptr;
thread_local std::uint64_t Trace::began = 0;

}  // namespace

std::unique_ptr<Order> trace_to(const std::string& file, Order& next) { return std::make_unique<Trace>(file, next); }

}  // namespace dsa::simulator
