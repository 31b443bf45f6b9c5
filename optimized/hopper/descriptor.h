// How wgmma is told where an operand lies in shared memory: 64 bits with a start address, two strides and the
// swizzle. PTX ISA, "Asynchronous warpgroup level matrix shared memory layout: Matrix descriptor format, Strides,
// Canonical layouts". One instruction takes 32 bytes of K.
//
// K-major: the numbers of a row of A, or of a column of B, lie together. Rows lie `span` bytes apart, eight rows (8
// spans) are a block, and blocks lie `stride` apart: what a tensor copy with a box of `span` bytes brings. The next
// 32 bytes of K are `advanced(d, 32)`, while they are within the span. Without a swizzle a block is 8 rows of 16
// bytes, and the two blocks of an instruction's 32 bytes lie `leading` apart.
//
// MN-major (bf16 only): the numbers of one k lie together, `span` bytes of them in a row; 8 rows (8 k) are a block,
// blocks of the next 8 k lie `stride` apart, and those of the next span / 2 rows of A (columns of B) `leading` apart.
#pragma once

#include "optimized/hopper/device.h"
#include "optimized/hopper/swizzle.h"

namespace dsa {

using Descriptor = std::uint64_t;

__device__ inline Descriptor descriptor(const void* start, int leading, int stride, Swizzle swizzle,
                                        [[maybe_unused]] Where where = Where::current()) {
    const std::uint32_t at = shared_address(start);
#if defined(DSA_SIMULATOR)
    if (at % 16 != 0 || leading % 16 != 0 || stride % 16 != 0)
        throw simulator::Fault(simulator::this_thread().block->place(where) +
                               "a descriptor needs its start, leading and stride offsets at multiples of 16 bytes");
#endif
    constexpr std::uint64_t modes[] = {0, 3, 2, 1};  // of none, 32, 64, 128 bytes
    const auto field = [](std::uint32_t x) { return std::uint64_t{(x & 0x3ffff) >> 4}; };
    return field(at) | field(static_cast<std::uint32_t>(leading)) << 16 |
           field(static_cast<std::uint32_t>(stride)) << 32 | modes[static_cast<int>(swizzle)] << 62;
}

// A tile whose rows of `span` bytes follow each other. The leading offset is not used by a swizzled K-major operand.
__device__ inline Descriptor k_major(const void* tile, Swizzle swizzle, Where where = Where::current()) {
    return descriptor(tile, 16, 8 * span_of(swizzle), swizzle, where);
}
// Panels of `span` bytes a k, each panel with all its k one after another; panels lie `leading` apart.
__device__ inline Descriptor mn_major(const void* tile, int leading, Swizzle swizzle,
                                      Where where = Where::current()) {
    return descriptor(tile, leading, 8 * span_of(swizzle), swizzle, where);
}

// The strides' half stays as it is, so that a kernel computes one 32-bit sum a product.
__device__ inline Descriptor advanced(Descriptor d, int bytes) {
    constexpr int half = 32;
    return d >> half << half | (static_cast<std::uint32_t>(d) + static_cast<std::uint32_t>(bytes / 16));
}

// What is derived from d is derived here, not kept in registers from before a loop.
__device__ inline void hold([[maybe_unused]] Descriptor& d) {
#if !defined(DSA_SIMULATOR)
    asm volatile("" : "+l"(d));
#endif
}

}  // namespace dsa
