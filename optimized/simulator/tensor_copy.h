// Copies of tiles through a tensor map: which bytes of the tensor lie where in shared memory. PTX ISA,
// "cp.async.bulk.tensor", "Tensor copies: tiled mode", "Swizzling modes".
#pragma once

#include "optimized/hopper/tensor_map.h"
#include "optimized/simulator/copies.h"

namespace dsa::simulator {

// at: the tile's first element in each dimension; below 0 and beyond the tensor are filled.
void tensor_load(void* to, const TensorMap& map, const int* at, int rank, std::uint64_t* mbarrier, std::uint16_t mask,
                 Where where);
// What lies outside of the tensor is not written. `adds`: float32 sums.
void tensor_store(const TensorMap& map, const int* at, int rank, const void* from, bool adds, Where where);

}  // namespace dsa::simulator
