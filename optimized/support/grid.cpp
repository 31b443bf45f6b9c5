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
    constexpr int most_of_cluster = 8;  // that every device of sm_90 offers
    if (how.cluster < 1 || how.cluster > most_of_cluster || how.blocks % how.cluster != 0)
        refuse(Status::bad_argument, "the kernel ", name, " would run in clusters of ", how.cluster,
               " blocks; a cluster has 1 to ", most_of_cluster, ", and the ", how.blocks,
               " blocks along x must be whole clusters");
}

}  // namespace dsa
