// 8 x 8 matrices of 2-byte numbers between shared memory and a warp's registers. Lane 8 m + r says where row r of
// matrix m lies: 16 bytes at a multiple of 16. Register m of lane 4 g + p then holds numbers 2 p and 2 p + 1 of row g of
// matrix m; transposed, rows 2 p and 2 p + 1 of column g. So mma's and wgmma's fragments are made of them. count: 1, 2
// or 4 matrices. PTX ISA, "ldmatrix", "stmatrix".
#pragma once

#include "optimized/hopper/device.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/matrix.h"
#endif

namespace dsa {

template <bool transposed = false, int count>
__device__ void load_matrices(std::uint32_t (&registers)[count], const void* row, Where where = Where::current());
template <bool transposed = false, int count>
__device__ void store_matrices(const std::uint32_t (&registers)[count], void* row, Where where = Where::current());

#if defined(DSA_SIMULATOR)

template <bool transposed, int count>
void load_matrices(std::uint32_t (&registers)[count], const void* row, Where where) {
    static_assert(count == 1 || count == 2 || count == 4, "ldmatrix loads 1, 2 or 4 matrices");
    simulator::load_matrices(registers, count, transposed, row, where);
}
template <bool transposed, int count>
void store_matrices(const std::uint32_t (&registers)[count], void* row, Where where) {
    static_assert(count == 1 || count == 2 || count == 4, "stmatrix stores 1, 2 or 4 matrices");
    simulator::store_matrices(registers, count, transposed, row, where);
}

#else

#define DSA_LOAD_1(form) \
    asm volatile("ldmatrix.sync.aligned.m8n8.x1" form ".shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory")
#define DSA_LOAD_2(form)                                                             \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2" form ".shared.b16 {%0, %1}, [%2];" \
                 : "=r"(r[0]), "=r"(r[1])                                            \
                 : "r"(at)                                                           \
                 : "memory")
#define DSA_LOAD_4(form)                                                                       \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" form ".shared.b16 {%0, %1, %2, %3}, [%4];"   \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                              \
                 : "r"(at)                                                                     \
                 : "memory")
#define DSA_STORE_1(form) \
    asm volatile("stmatrix.sync.aligned.m8n8.x1" form ".shared.b16 [%0], {%1};" ::"r"(at), "r"(r[0]) : "memory")
#define DSA_STORE_2(form)                                                                                       \
    asm volatile("stmatrix.sync.aligned.m8n8.x2" form ".shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(r[0]), "r"(r[1]) \
                 : "memory")
#define DSA_STORE_4(form)                                                                                 \
    asm volatile("stmatrix.sync.aligned.m8n8.x4" form ".shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),   \
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])                                               \
                 : "memory")
#define DSA_MATRICES(move)                                                     \
    static_assert(count == 1 || count == 2 || count == 4, "1, 2 or 4 matrices"); \
    if constexpr (count == 1 && !transposed) move##_1("");                     \
    if constexpr (count == 1 && transposed) move##_1(".trans");                \
    if constexpr (count == 2 && !transposed) move##_2("");                     \
    if constexpr (count == 2 && transposed) move##_2(".trans");                \
    if constexpr (count == 4 && !transposed) move##_4("");                     \
    if constexpr (count == 4 && transposed) move##_4(".trans")

template <bool transposed, int count>
__device__ inline void load_matrices(std::uint32_t (&r)[count], const void* row, Where) {
    const std::uint32_t at = shared_address(row);
    DSA_MATRICES(DSA_LOAD);
}
template <bool transposed, int count>
__device__ inline void store_matrices(const std::uint32_t (&r)[count], void* row, Where) {
    const std::uint32_t at = shared_address(row);
    DSA_MATRICES(DSA_STORE);
}

#undef DSA_LOAD_1
#undef DSA_LOAD_2
#undef DSA_LOAD_4
#undef DSA_STORE_1
#undef DSA_STORE_2
#undef DSA_STORE_4
#undef DSA_MATRICES

#endif

}  // namespace dsa
