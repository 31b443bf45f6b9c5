// ldmatrix and stmatrix: 8 x 8 matrices of 2-byte numbers between rows of 16 bytes in shared memory and a warp's
// registers. PTX ISA, "ldmatrix", "stmatrix". hopper/matrix.h has the picture.
#pragma once

#include "optimized/simulator/thread.h"

namespace dsa::simulator {

// count: 1, 2 or 4 matrices, a register each. row: this lane's row, asked of the first 8 * count lanes.
void load_matrices(std::uint32_t* registers, unsigned count, bool transposed, const void* row, Where where);
void store_matrices(const std::uint32_t* registers, unsigned count, bool transposed, void* row, Where where);

}  // namespace dsa::simulator
