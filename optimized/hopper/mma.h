// A warp's matrix product on the tensor cores: C [16 x 8] += A [16 x K] B [K x 8] with float32 sums, K = 16 numbers
// of bf16 or 32 of e4m3. PTX ISA, "mma", fragments of m16n8k16 and m16n8k32. On sm_90 the assembler turns e4m3
// operands into f16, which holds each of them, and multiplies those (NVIDIA/cutlass#1986).
//
// Who holds what: lane = 4 g + p. Four bytes of a row of A, or of a column of B, are one register.
//   a[0]        row g       bytes 4 p ... of the row's first 16
//   a[1]        row g + 8   the same
//   a[2]        row g       bytes 4 p ... of the row's last 16
//   a[3]        row g + 8   the same
//   b[0]        column g    bytes 4 p ... of the column's first 16
//   b[1]        column g    bytes 4 p ... of its last 16
//   c[0], c[1]  row g       columns 2 p, 2 p + 1
//   c[2], c[3]  row g + 8   the same
// So both formats have one picture: a row of A, and a column of B, is 32 bytes.
#pragma once

#include "optimized/hopper/numbers.h"
#if defined(DSA_SIMULATOR)
#include "optimized/simulator/mma.h"
#endif

namespace dsa {

inline constexpr int mma_rows = 16;
inline constexpr int mma_columns = 8;
inline constexpr int mma_bytes = 32;  // of a row of A and of a column of B

__device__ inline int mma_row(int lane) { return lane / 4; }         // g
__device__ inline int mma_column(int lane) { return lane % 4 * 2; }  // 2 p

// The fragments from rows that lie `stride` bytes apart in shared memory; `a` and `b` point to the first row's (of
// A), or column's (of B), first byte. Addresses are multiples of 4.
__device__ inline void load_a(std::uint32_t (&a)[4], const void* rows, int stride) {
    const auto* mine = static_cast<const unsigned char*>(rows) + mma_row(lane_id()) * stride + lane_id() % 4 * 4;
    a[0] = *reinterpret_cast<const std::uint32_t*>(mine);
    a[1] = *reinterpret_cast<const std::uint32_t*>(mine + 8 * stride);
    a[2] = *reinterpret_cast<const std::uint32_t*>(mine + 16);
    a[3] = *reinterpret_cast<const std::uint32_t*>(mine + 8 * stride + 16);
}
__device__ inline void load_b(std::uint32_t (&b)[2], const void* columns, int stride) {
    const auto* mine = static_cast<const unsigned char*>(columns) + mma_row(lane_id()) * stride + lane_id() % 4 * 4;
    b[0] = *reinterpret_cast<const std::uint32_t*>(mine);
    b[1] = *reinterpret_cast<const std::uint32_t*>(mine + 16);
}

// All 32 lanes of the warp come. T: bf16 or e4m3.
template <class T>
__device__ void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

#if defined(DSA_SIMULATOR)

template <>
inline void mma<bf16>(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    simulator::multiply<bf16>(c, a, b, "mma");
}
template <>
inline void mma<e4m3>(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    simulator::multiply<e4m3>(c, a, b, "mma");
}

#else

template <>
__device__ inline void mma<bf16>(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ inline void mma<e4m3>(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

}  // namespace dsa
