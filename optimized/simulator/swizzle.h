// The swizzles of shared memory: within 1024, 512 or 256 bytes, the 16-byte pieces of a row of 128, 64 or 32 bytes
// are exchanged by the row's number. The pattern hangs on the address, not on the tile. PTX ISA, "Swizzling modes";
// the same function in words of CuTe: Swizzle<3, 4, 3>, <2, 4, 3>, <1, 4, 3> of bytes.
#pragma once

#include <cstdint>

namespace dsa::simulator {

// span: 128, 64, 32, or anything else for none.
inline std::uint32_t swizzled(std::uint32_t address, unsigned span) {
    const std::uint32_t pieces = span == 128 ? 7 : span == 64 ? 3 : span == 32 ? 1 : 0;
    return address ^ (address >> 7 & pieces) << 4;
}

// The shared window begins with 1024 bytes that are not the kernel's, as on sm_90: 0 is no address of a kernel's
// data.
inline constexpr std::uint32_t shared_window = 1024;

}  // namespace dsa::simulator
