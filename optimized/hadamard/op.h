// The Walsh-Hadamard transform of every head, natural order, over sqrt(n). spec section 3.
//
// level 1  one block a head: log2(n) rounds of sums and differences in shared memory
// level 2  one warp a head: rounds within a lane's registers, then 5 shuffles
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct Hadamard {
    const bf16* x;  // [heads, n]
    bf16* y;        // [heads, n]
    std::int64_t heads;
    int n;  // a power of two
    Stream stream;
};

inline constexpr int largest_hadamard = 1024;

void hadamard_level_1(const Hadamard& call);
void hadamard_level_2(const Hadamard& call);
std::string hadamard_level_2_declines(const Hadamard& call);

}  // namespace dsa
