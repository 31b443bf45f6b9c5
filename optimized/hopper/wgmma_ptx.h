// The text of wgmma.mma_async for each N. Inline assembly wants each of the N / 2 accumulators named in the text and
// listed as an operand, so macros write them: DSA_NAMES_* by tens, DSA_SUMS_* by doubling. The operands after them
// are numbered from N / 2. Included by hopper/wgmma.h alone, which says what it means.
#pragma once

// "%t0, %t1, ... ": the names of the accumulators number 10 t ..., without t those from 0.
#define DSA_NAMES_2(t) "%" #t "0, %" #t "1"
#define DSA_NAMES_4(t) DSA_NAMES_2(t) ", %" #t "2, %" #t "3"
#define DSA_NAMES_6(t) DSA_NAMES_4(t) ", %" #t "4, %" #t "5"
#define DSA_NAMES_8(t) DSA_NAMES_6(t) ", %" #t "6, %" #t "7"
#define DSA_NAMES_10(t) DSA_NAMES_8(t) ", %" #t "8, %" #t "9, "
#define DSA_NAMES_30 DSA_NAMES_10() DSA_NAMES_10(1) DSA_NAMES_10(2)
#define DSA_NAMES_60 DSA_NAMES_30 DSA_NAMES_10(3) DSA_NAMES_10(4) DSA_NAMES_10(5)
#define DSA_NAMES_90 DSA_NAMES_60 DSA_NAMES_10(6) DSA_NAMES_10(7) DSA_NAMES_10(8)

#define DSA_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DSA_SUMS_8(i) DSA_SUMS_4(i), DSA_SUMS_4(i + 4)
#define DSA_SUMS_16(i) DSA_SUMS_8(i), DSA_SUMS_8(i + 8)
#define DSA_SUMS_24(i) DSA_SUMS_16(i), DSA_SUMS_8(i + 16)
#define DSA_SUMS_32(i) DSA_SUMS_16(i), DSA_SUMS_16(i + 16)
#define DSA_SUMS_48(i) DSA_SUMS_32(i), DSA_SUMS_16(i + 32)
#define DSA_SUMS_64(i) DSA_SUMS_32(i), DSA_SUMS_32(i + 32)
#define DSA_SUMS_96(i) DSA_SUMS_64(i), DSA_SUMS_32(i + 64)
#define DSA_SUMS_128(i) DSA_SUMS_64(i), DSA_SUMS_64(i + 64)

// instruction(N, names, sums, the numbers of nine operands after the sums)
// clang-format off
#define DSA_WGMMA_OF_EACH_N(instruction)                                                                                     \
    instruction(8, DSA_NAMES_4(), DSA_SUMS_4(0), 4, 5, 6, 7, 8, 9, 10, 11, 12)                                               \
    instruction(16, DSA_NAMES_8(), DSA_SUMS_8(0), 8, 9, 10, 11, 12, 13, 14, 15, 16)                                          \
    instruction(32, DSA_NAMES_10() DSA_NAMES_6(1), DSA_SUMS_16(0), 16, 17, 18, 19, 20, 21, 22, 23, 24)                       \
    instruction(48, DSA_NAMES_10() DSA_NAMES_10(1) DSA_NAMES_4(2), DSA_SUMS_24(0), 24, 25, 26, 27, 28, 29, 30, 31, 32)       \
    instruction(64, DSA_NAMES_30 DSA_NAMES_2(3), DSA_SUMS_32(0), 32, 33, 34, 35, 36, 37, 38, 39, 40)                         \
    instruction(96, DSA_NAMES_30 DSA_NAMES_10(3) DSA_NAMES_8(4), DSA_SUMS_48(0), 48, 49, 50, 51, 52, 53, 54, 55, 56)         \
    instruction(128, DSA_NAMES_60 DSA_NAMES_4(6), DSA_SUMS_64(0), 64, 65, 66, 67, 68, 69, 70, 71, 72)                        \
    instruction(192, DSA_NAMES_90 DSA_NAMES_6(9), DSA_SUMS_96(0), 96, 97, 98, 99, 100, 101, 102, 103, 104)                   \
    instruction(256, DSA_NAMES_90 DSA_NAMES_10(9) DSA_NAMES_10(10) DSA_NAMES_10(11) DSA_NAMES_8(12), DSA_SUMS_128(0), 128,   \
                129, 130, 131, 132, 133, 134, 135, 136)
// clang-format on

#define DSA_WGMMA_TEXT(n, types, names, a, b, p, rest)                                                             \
    "{ .reg .pred add; setp.ne.b32 add, %" #p ", 0; wgmma.mma_async.sync.aligned.m64n" #n types " {" names "}, " a \
    ", %" #b ", add, " rest "; }"

#define DSA_WGMMA_BF16_SHARED(n, names, sums, i0, i1, i2, i3, i4, i5, i6, i7, i8)                                 \
    if constexpr (half_n == n / 2)                                                                                \
        asm volatile(                                                                                             \
            DSA_WGMMA_TEXT(n, "k16.f32.bf16.bf16", names, "%" #i0, i1, i2, "%" #i3 ", %" #i4 ", %" #i5 ", %" #i6) \
            : sums                                                                                                \
            : "l"(a), "l"(b), "r"(p), "n"(negate_a), "n"(negate_b), "n"(trans_a), "n"(trans_b));
#define DSA_WGMMA_E4M3_SHARED(n, names, sums, i0, i1, i2, i3, i4, i5, i6, i7, i8)                      \
    if constexpr (half_n == n / 2)                                                                     \
        asm volatile(DSA_WGMMA_TEXT(n, "k32.f32.e4m3.e4m3", names, "%" #i0, i1, i2, "%" #i3 ", %" #i4) \
                     : sums                                                                            \
                     : "l"(a), "l"(b), "r"(p), "n"(negate_a), "n"(negate_b));
#define DSA_WGMMA_BF16_REGISTERS(n, names, sums, i0, i1, i2, i3, i4, i5, i6, i7, i8)                               \
    if constexpr (half_n == n / 2)                                                                                 \
        asm volatile(DSA_WGMMA_TEXT(n, "k16.f32.bf16.bf16", names, "{%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}", i4, \
                                    i5, "%" #i6 ", %" #i7 ", %" #i8)                                               \
                     : sums                                                                                        \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p), "n"(negate_a), "n"(negate_b),   \
                       "n"(trans_b));
#define DSA_WGMMA_E4M3_REGISTERS(n, names, sums, i0, i1, i2, i3, i4, i5, i6, i7, i8)                               \
    if constexpr (half_n == n / 2)                                                                                 \
        asm volatile(DSA_WGMMA_TEXT(n, "k32.f32.e4m3.e4m3", names, "{%" #i0 ", %" #i1 ", %" #i2 ", %" #i3 "}", i4, \
                                    i5, "%" #i6 ", %" #i7)                                                         \
                     : sums                                                                                        \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(p), "n"(negate_a), "n"(negate_b));
