// wgmma's 64-bit matrix descriptors and the layouts behind them, as the simulator reads them. PTX ISA, "Asynchronous
// warpgroup level matrix shared memory layout": "Matrix descriptor format" for the bits, "Canonical layouts" and
// "Strides" for the addresses. hopper/descriptor.h builds them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "optimized/simulator/block.h"
#include "optimized/simulator/swizzle.h"

namespace dsa::simulator {

struct Descriptor {
    std::uint32_t start;    // an address of the shared window
    std::uint32_t leading;  // leading dimension byte offset
    std::uint32_t stride;   // stride dimension byte offset
    unsigned base_offset;
    unsigned span;  // bytes of a swizzled row: 128, 64, 32; 16: not swizzled
};

inline Descriptor decoded(std::uint64_t bits) {
    constexpr unsigned spans[] = {16, 128, 64, 32};
    return {static_cast<std::uint32_t>(bits & 0x3fff) << 4, static_cast<std::uint32_t>(bits >> 16 & 0x3fff) << 4,
            static_cast<std::uint32_t>(bits >> 32 & 0x3fff) << 4, static_cast<unsigned>(bits >> 49 & 7),
            spans[bits >> 62]};
}

// Where 16 bytes of an operand lie. `row`: of A, or column of B. K-major: the 16 bytes number `half` (0 or 1) of the
// row's 32.
inline std::uint32_t k_major(const Descriptor& d, unsigned row, unsigned half) {
    const std::uint32_t pitch = d.span;                           // of neighbouring rows: a row of the swizzle's atom
    const std::uint32_t to_half = d.span == 16 ? d.leading : 16;  // without a swizzle, 8 x 16 bytes lie together
    return swizzled(d.start + row % 8 * pitch + row / 8 * d.stride + half * to_half, d.span);
}
// MN-major: the eight rows (of 2 bytes each) from 8 * `eight`, at `k`.
inline std::uint32_t mn_major(const Descriptor& d, unsigned eight, unsigned k) {
    if (d.span == 16) return d.start + eight * d.stride + k % 8 * 16 + k / 8 * d.leading;
    const unsigned together = d.span / 16;
    return swizzled(
        d.start + eight % together * 16 + eight / together * d.leading + k % 8 * d.span + k / 8 * d.stride, d.span);
}

}  // namespace dsa::simulator
