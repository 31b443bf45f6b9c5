// The same product of f16 numbers, A in registers: what hopper/wgmma.h says holds, with hopper/half.h's pairs in
// place of bf16's. PTX ISA, "wgmma.mma_async": .f32.f16.f16.
#pragma once

#include "optimized/hopper/half.h"
#include "optimized/hopper/wgmma.h"

namespace dsa {

// B K-major. All 128 threads of the warpgroup come; half_n, add: as there.
template <int half_n>
__device__ void wgmma_f16(float (&d)[half_n], const std::uint32_t (&a)[4], Descriptor b, bool add,
                          Where where = Where::current());

#if defined(DSA_SIMULATOR)

template <int half_n>
void wgmma_f16(float (&d)[half_n], const std::uint32_t (&a)[4], Descriptor b, bool add, Where where) {
    detail::check_form<f16, Form{}, half_n>();
    simulator::products_of_this_block().multiply(
        {2 * half_n, false, a, 0, b, add, false, false, false, false, d, true}, where);
}

#else

#define DSA_WGMMA_F16_REGISTERS(n, names, sums, i0, i1, i2, i3, i4, i5, i6, i7, i8)                                  \
    if constexpr (half_n == n / 2)                                                                                   \
        asm volatile(DSA_WGMMA_TEXT(n, "k16.f32.f16.f16", names, "{%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}", i4, i5, \
                                    "1, 1, 0")                                                                       \
                     : sums                                                                                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p));

template <int half_n>
__device__ inline void wgmma_f16(float (&d)[half_n], const std::uint32_t (&a)[4], Descriptor b, bool add, Where) {
    detail::check_form<f16, Form{}, half_n>();
    const int p = add ? 1 : 0;
    DSA_WGMMA_OF_EACH_N(DSA_WGMMA_F16_REGISTERS)
}

#endif

}  // namespace dsa
