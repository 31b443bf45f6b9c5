// Tensor copies: one thread asks for a box of a tensor of 1 to 5 dimensions, and the copy engine brings it to shared
// memory, swizzled and filled outside of the tensor, or takes it back. `at`: the box's first element, dimension 0
// first, as in tma_load(tile, map, {column, row}, full); the first coordinate falls at a multiple of 16 bytes, or the
// GPU stops with an illegal instruction. Tiles begin at multiples of 128 bytes, swizzled ones at multiples of 8
// spans. A load tells the mbarrier the whole box's bytes; a store belongs to a group: bulk_commit(), bulk_wait().
// Rows that lie anywhere are gathered by one load a row, with a box of one row. PTX ISA, "cp.async.bulk.tensor",
// "cp.reduce.async.bulk.tensor".
#pragma once

#include "optimized/hopper/bulk.h"
#include "optimized/hopper/tensor_map.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/tensor_copy.h"
#endif

namespace dsa {

template <int rank>
__device__ void tma_load(void* to, const TensorMap& map, const int (&at)[rank], Mbarrier& barrier,
                         Where where = Where::current());
// To every block of the cluster whose bit is set, at the same place, told to the same barrier of its own.
template <int rank>
__device__ void tma_load_multicast(void* to, const TensorMap& map, const int (&at)[rank], Mbarrier& barrier,
                                   std::uint16_t blocks, Where where = Where::current());
// What lies outside of the tensor is not written, in whole pieces of 16 bytes: where a row ends within one, the rest
// of the piece is overwritten, so rows end at multiples of 16 bytes or are padded.
template <int rank>
__device__ void tma_store(const TensorMap& map, const int (&at)[rank], const void* from,
                          Where where = Where::current());
// Adds float32 numbers to what is there.
template <int rank>
__device__ void tma_add(const TensorMap& map, const int (&at)[rank], const void* from,
                        Where where = Where::current());
// The map will be needed soon.
__device__ void prefetch(const TensorMap& map);

#if defined(DSA_SIMULATOR)

template <int rank>
void tma_load(void* to, const TensorMap& map, const int (&at)[rank], Mbarrier& barrier, Where where) {
    simulator::tensor_load(to, map, at, rank, &barrier.state, 0, where);
}
template <int rank>
void tma_load_multicast(void* to, const TensorMap& map, const int (&at)[rank], Mbarrier& barrier,
                        std::uint16_t blocks, Where where) {
    simulator::tensor_load(to, map, at, rank, &barrier.state, blocks, where);
}
template <int rank>
void tma_store(const TensorMap& map, const int (&at)[rank], const void* from, Where where) {
    simulator::tensor_store(map, at, rank, from, false, where);
}
template <int rank>
void tma_add(const TensorMap& map, const int (&at)[rank], const void* from, Where where) {
    simulator::tensor_store(map, at, rank, from, true, where);
}
inline void prefetch(const TensorMap&) {}

#else

// %0 shared address, %1 map, %2 mbarrier, %3 blocks, %4 ... %8 coordinates: the instruction's text names those it
// needs.
#define DSA_TMA(head, middle, tail, shared, barrier, blocks)                                                 \
    if constexpr (rank == 1) DSA_TMA_OF(head ".1d" middle "{%4}" tail, shared, barrier, blocks);             \
    if constexpr (rank == 2) DSA_TMA_OF(head ".2d" middle "{%4, %5}" tail, shared, barrier, blocks);         \
    if constexpr (rank == 3) DSA_TMA_OF(head ".3d" middle "{%4, %5, %6}" tail, shared, barrier, blocks);     \
    if constexpr (rank == 4) DSA_TMA_OF(head ".4d" middle "{%4, %5, %6, %7}" tail, shared, barrier, blocks); \
    if constexpr (rank == 5) DSA_TMA_OF(head ".5d" middle "{%4, %5, %6, %7, %8}" tail, shared, barrier, blocks)
#define DSA_TMA_OF(text, shared, barrier, blocks)                                                      \
    asm volatile(text ::"r"(shared_address(shared)), "l"(&map), "r"(barrier), "h"(blocks), "r"(at[0]), \
                 "r"(at[1 % rank]), "r"(at[2 % rank]), "r"(at[3 % rank]), "r"(at[4 % rank])            \
                 : "memory")

template <int rank>
__device__ inline void tma_load(void* to, const TensorMap& map, const int (&at)[rank], Mbarrier& barrier, Where) {
    DSA_TMA("cp.async.bulk.tensor", ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, ",
            "], [%2];", to, shared_address(&barrier), std::uint16_t{0});
}
template <int rank>
__device__ inline void tma_load_multicast(void* to, const TensorMap& map, const int (&at)[rank], Mbarrier& barrier,
                                          std::uint16_t blocks, Where) {
    DSA_TMA("cp.async.bulk.tensor",
            ".shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, ",
            "], [%2], %3;", to, shared_address(&barrier), blocks);
}
template <int rank>
__device__ inline void tma_store(const TensorMap& map, const int (&at)[rank], const void* from, Where) {
    DSA_TMA("cp.async.bulk.tensor", ".global.shared::cta.tile.bulk_group [%1, ", "], [%0];", from, 0,
            std::uint16_t{0});
}
template <int rank>
__device__ inline void tma_add(const TensorMap& map, const int (&at)[rank], const void* from, Where) {
    DSA_TMA("cp.reduce.async.bulk.tensor", ".global.shared::cta.add.tile.bulk_group [%1, ", "], [%0];", from, 0,
            std::uint16_t{0});
}
__device__ inline void prefetch(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map)); }

#undef DSA_TMA
#undef DSA_TMA_OF

#endif

}  // namespace dsa
