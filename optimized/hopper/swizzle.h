// How tensor copies and wgmma exchange the 16-byte pieces of rows in shared memory, so that columns read at once lie in
// different banks. A row is `span` bytes; after 8 rows the pattern repeats. It hangs on the address: tiles begin at
// multiples of 8 spans. PTX ISA, "Swizzling modes".
#pragma once

#include <cstdint>

#include "optimized/hopper/device.h"

namespace dsa {

enum class Swizzle : std::uint8_t { none, bytes_32, bytes_64, bytes_128 };

// Bytes of a swizzled row; 16 without.
__host__ __device__ constexpr int span_of(Swizzle swizzle) {
    return swizzle == Swizzle::bytes_128 ? 128 : swizzle == Swizzle::bytes_64 ? 64 : swizzle == Swizzle::bytes_32 ? 32 : 16;
}

// Where the byte that would lie at `offset` of an unswizzled tile lies in a swizzled one: for threads that read or
// write such tiles themselves.
__host__ __device__ constexpr std::uint32_t swizzled_offset(std::uint32_t offset, Swizzle swizzle) {
    return offset ^ ((offset >> 7 & (static_cast<std::uint32_t>(span_of(swizzle)) / 16 - 1)) << 4);
}

}  // namespace dsa
