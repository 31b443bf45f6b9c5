// The float32 numbers at which a conversion can go wrong.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "reference/numerics/float8.h"

namespace dsa {

inline float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// Every e4m3 value, the midpoint to the next one, and the float32 numbers beside each; beyond the largest too.
template <class Visit>
void for_e4m3_boundaries(Visit&& visit) {
    const auto around = [&](float x) {
        for (const float y : {x, std::nextafter(x, 0.0F), std::nextafter(x, 1e9F)}) {
            visit(y);
            visit(-y);
        }
    };
    for (int code = 0; code < 0x7e; ++code) {
        const float low = to_float(float8_e4m3{static_cast<std::uint8_t>(code)});
        const float high = to_float(float8_e4m3{static_cast<std::uint8_t>(code + 1)});
        around(low);
        around((low + high) / 2);  // exact: both have few bits
    }
    for (const float x : {448.0F, 456.0F, 464.0F, 465.0F, 480.0F, 1e4F, 1e30F, 3e38F, 0x1p-10F, 0x1p-11F, 0x1p-149F})
        around(x);
}

}  // namespace dsa
