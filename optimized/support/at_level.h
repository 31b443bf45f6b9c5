// A layer's level chooses that of its parts: those ops run at it while this is alive.
#pragma once

#include "optimized/support/ladder.h"

namespace dsa {

class AtLevel {
   public:
    // 0: each part at the highest level that takes it
    explicit AtLevel(int level) : before_(chosen_level()) { choose_level(level); }
    ~AtLevel() { choose_level(before_); }
    AtLevel(const AtLevel&) = delete;
    AtLevel& operator=(const AtLevel&) = delete;

   private:
    int before_;
};

}  // namespace dsa
