// How many blocks of how many threads a kernel starts with.
#pragma once

#include <cstddef>

#include "optimized/support/call.h"

namespace dsa {

struct Launch {
    std::int64_t blocks = 1;  // in x
    int threads = 128;        // a block; a multiple of 32
    std::size_t shared_bytes = 0;
    Stream stream = nullptr;
    std::int64_t blocks_y = 1;
    std::int64_t blocks_z = 1;
    int cluster = 1;                 // blocks of a cluster, along x
    bool overlaps_previous = false;  // may start before the kernel ahead of it has ended: hopper/dependent.h
};

// One sentence where the grid is larger than the hardware's.
void check_grid(const char* name, const Launch& how);

// rows / per_block, rounded up
inline std::int64_t blocks_for(std::int64_t rows, std::int64_t per_block) {
    return (rows + per_block - 1) / per_block;
}

}  // namespace dsa
