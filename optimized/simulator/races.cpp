#include "optimized/simulator/races.h"

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "optimized/simulator/schedule.h"
#include "optimized/simulator/worker.h"

namespace dsa::simulator {
namespace {

thread_local Worker* worker __attribute__((tls_model("initial-exec"))) = nullptr;

class Races final : public Order {
   public:
    // Grids run one at a time: two could only be told apart by their streams.
    void grid_begins() override {
        launches_.lock();
        in_use_ = 0;
    }
    void grid_ends(bool failed) override {
        const std::unique_lock launch(launches_, std::adopt_lock);
        worker = nullptr;  // of this thread; the others are gone
        if (failed) return;
        for (std::size_t i = 0; i < in_use_; ++i)
            for (std::size_t j = i + 1; j < in_use_; ++j) Worker::compare(*workers_[i], *workers_[j]);
    }
    void block_begins(const Block& block) override {
        if (worker == nullptr) worker = take();
        worker->block_begins(block);
    }
    void block_ends(const Block& block) override { worker->block_ends(block); }
    void takes_turn(const Thread& thread) override { worker->takes_turn(thread); }

    void release(const Thread& by, Round to) override { worker->release(by, to); }
    void acquire(const Thread& by, Round from) override { worker->acquire(by, from); }
    void fence_proxy_async(const Thread& by, Where) override { worker->fence_proxy_async(by); }
    void reads(const Thread& by, const void* bytes, std::size_t count, Where where) override {
        worker->access(by, bytes, count, Access::read, site_of("", where));
    }
    void writes(const Thread& by, const void* bytes, std::size_t count, Where where) override {
        worker->access(by, bytes, count, Access::write, site_of("", where));
    }

    Operation begins(const Thread& by, Proxy through, const char* what, Where where) override {
        return worker->begins(by, through, what, where);
    }
    void begins_also(Operation operation, const Thread& by) override { worker->begins_also(operation, by); }
    void reads(Operation operation, const void* bytes, std::size_t count) override {
        worker->access(operation, bytes, count, Access::read);
    }
    void writes(Operation operation, const void* bytes, std::size_t count) override {
        worker->access(operation, bytes, count, Access::write);
    }
    void release(Operation operation, Round to) override { worker->release(operation, to); }
    void acquire(const Thread& by, Operation operation, Part part) override { worker->acquire(by, operation, part); }

   private:
    Worker* take() {
        const std::lock_guard lock(mutex_);
        if (in_use_ == workers_.size()) workers_.push_back(std::make_unique<Worker>());
        Worker* next = workers_[in_use_++].get();
        next->grid_begins();
        return next;
    }

    std::mutex launches_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<Worker>> workers_;  // kept from grid to grid
    std::size_t in_use_ = 0;
};

}  // namespace

Order& races() {
    static Races all;
    return all;
}

void accessed(const void* bytes, std::size_t count, Access access, const void* return_address) {
    if (worker == nullptr) return;
    // Compiled code does not expect an exception where it only reads or writes, so the run ends without one.
    std::exception_ptr failure;
    try {
        worker->access(bytes, count, access, return_address);
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) Schedule::stop(std::move(failure));
}

void block_returns(const Block& block) {
    if (worker != nullptr) worker->block_returns(block);
}

}  // namespace dsa::simulator
