// Rotary frequencies as kernels take them: one float a pair, by value.
#pragma once

#include "optimized/support/case.h"

namespace dsa {

struct RopeTable {
    static constexpr int most_pairs = 64;
    int pairs;                    // d_rope / 2
    float frequency[most_pairs];  // radians a position
};

// theta^(-2i / d_rope), slowed by YaRN's ramp: spec section 2. Refused where d_rope is odd or beyond 128.
RopeTable rope_table(const RopeParameters& parameters, std::int64_t d_rope);

}  // namespace dsa
