#include "optimized/support/grid.h"

namespace dsa {

void check_grid(const char* name, const Launch& how) {
    constexpr std::int64_t most_x = 0x7fffffff;
    constexpr std::int64_t most_yz = 65535;
    if (how.blocks < 0 || how.blocks > most_x || how.blocks_y < 0 || how.blocks_y > most_yz || how.blocks_z < 0 ||
        how.blocks_z > most_yz)
        refuse(Status::bad_argument, "the kernel ", name, " would need ", how.blocks, " x ", how.blocks_y, " x ",
               how.blocks_z, " blocks; a grid has at most ", most_x, " x ", most_yz, " x ", most_yz,
               ": give fewer rows at once");
}

}  // namespace dsa
