// Four of the eight bytes of two registers, in any order: nibble i of `which` names the byte that becomes byte i, 0
// to 3 of the first register, 4 to 7 of the second. PTX ISA, "prmt".
#pragma once

#include "optimized/hopper/device.h"

namespace dsa {

#if defined(DSA_SIMULATOR)

inline std::uint32_t pick_bytes(std::uint32_t first, std::uint32_t second, std::uint32_t which) {
    const std::uint64_t both = first | static_cast<std::uint64_t>(second) << 32;
    std::uint32_t picked = 0;
    for (unsigned i = 0; i < 4; ++i)
        picked |= static_cast<std::uint32_t>(both >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
    return picked;
}

#else

__device__ inline std::uint32_t pick_bytes(std::uint32_t first, std::uint32_t second, std::uint32_t which) {
    return __byte_perm(first, second, which);
}

#endif

}  // namespace dsa
