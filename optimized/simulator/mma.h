// The tensor cores' warp product, from the fragments that 32 lanes bring: hopper/mma.h has the picture. The products
// of one instruction and C are added in float64 and rounded once; the hardware's own rounding inside one is not
// documented.
#pragma once

#include <array>
#include <cstring>

#include "optimized/simulator/numbers.h"
#include "optimized/support/call.h"

namespace dsa::simulator {

inline double number_at(const unsigned char* bytes, int i, bf16) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes + 2 * i, sizeof bits);
    return __uint_as_float(std::uint32_t{bits} << 16);
}
inline double number_at(const unsigned char* bytes, int i, e4m3) {
    static const std::array<float, 256> numbers = [] {
        std::array<float, 256> all{};
        for (unsigned bits = 0; bits < all.size(); ++bits)
            all[bits] = number_of_e4m3(static_cast<std::uint8_t>(bits));
        return all;
    }();
    return numbers[bytes[i]];
}

// T: bf16 or e4m3.
template <class T>
void multiply(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const char* what,
              Where where = Where::current());

}  // namespace dsa::simulator
