// setmaxnreg's bookkeeping: how many registers a thread of each warp may use, and how many the block has to give.
// PTX ISA, "setmaxnreg".
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "optimized/simulator/thread.h"

namespace dsa::simulator {

// A kernel for one block an SM is compiled with as many registers a thread as the SM's 65536 allow, at most 255; they
// are given out in steps of 8. That is the count a warp begins with here.
class Registers {
   public:
    explicit Registers(std::uint64_t threads);

    // setmaxnreg.inc waits until the block has enough to give, .dec gives back.
    void increase(unsigned count, Where where);
    void decrease(unsigned count, Where where);

    // When all threads have returned: the four warps of a warpgroup have done the same.
    void check_at_the_end(const Block& block) const;

   private:
    struct Change {
        bool increases;
        unsigned count;
        bool operator==(const Change&) const = default;
    };
    unsigned check(const char* what, unsigned count, Where where) const;

    std::vector<unsigned> of_warp_;
    std::vector<std::vector<Change>> changes_;  // by warp
    unsigned in_pool_ = 0;                      // in units of one register for each lane of a warp
};

}  // namespace dsa::simulator
