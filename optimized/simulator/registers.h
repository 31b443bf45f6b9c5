// setmaxnreg's bookkeeping: how many registers a thread of each warpgroup may use, and how many the block has to
// give. PTX ISA, "setmaxnreg".
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dsa::simulator {

// A kernel for one block an SM is compiled with as many registers a thread as the SM's 65536 allow, at most 255; they
// are given out in steps of 8. That is the count a warpgroup begins with here.
class Registers {
   public:
    explicit Registers(std::uint64_t threads)
        : first_(static_cast<unsigned>(std::min<std::uint64_t>(65536 / threads, 255) / 8 * 8)),
          of_warpgroup_((threads + 127) / 128, first_) {}

    unsigned of(unsigned warpgroup) const { return of_warpgroup_[warpgroup]; }
    unsigned in_pool() const { return in_pool_; }
    void give_back(unsigned warpgroup, unsigned count) {
        in_pool_ += of_warpgroup_[warpgroup] - count;
        of_warpgroup_[warpgroup] = count;
    }
    bool can_take(unsigned warpgroup, unsigned count) const { return count - of_warpgroup_[warpgroup] <= in_pool_; }
    void take(unsigned warpgroup, unsigned count) {
        in_pool_ -= count - of_warpgroup_[warpgroup];
        of_warpgroup_[warpgroup] = count;
    }

   private:
    unsigned first_;
    std::vector<unsigned> of_warpgroup_;
    unsigned in_pool_ = 0;  // registers a thread of one warpgroup: 128 times as many in all
};

}  // namespace dsa::simulator
