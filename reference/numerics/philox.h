// Random inputs, the same everywhere: a counter-based generator.
//
// Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011):
// ten rounds that mix a 128-bit counter under a 64-bit key. Element i of a tensor depends on nothing but
// (seed, tensor, i), so any element can be made alone, in any order, on any machine. spec section 12.
#pragma once

#include <array>
#include <cstdint>

namespace dsa {

using PhiloxBlock = std::array<std::uint32_t, 4>;

inline PhiloxBlock philox(PhiloxBlock counter, std::uint64_t key) {
    auto key_low = static_cast<std::uint32_t>(key);
    auto key_high = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product_0 = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t product_1 = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(product_1 >> 32) ^ counter[1] ^ key_low,
                   static_cast<std::uint32_t>(product_1),
                   static_cast<std::uint32_t>(product_0 >> 32) ^ counter[3] ^ key_high,
                   static_cast<std::uint32_t>(product_0)};
        key_low += 0x9E3779B9;   // the golden ratio
        key_high += 0xBB67AE85;  // sqrt(3) - 1
    }
    return counter;
}

// The random stream of one tensor of one case. `stream` tells apart several draws for the same element.
struct RandomTensor {
    std::uint64_t seed = 0;
    std::uint32_t tensor = 0;

    PhiloxBlock block(std::uint64_t element, std::uint32_t stream = 0) const {
        return philox(
            {static_cast<std::uint32_t>(element), static_cast<std::uint32_t>(element >> 32), tensor, stream}, seed);
    }

    // The sum of eight 16-bit lanes less its mean, an integer within +-262140: bell-shaped (Irwin-Hall).
    std::int32_t bell(std::uint64_t element, std::uint32_t stream = 0) const {
        std::int32_t sum = -8 * 65535 / 2;
        for (const std::uint32_t word : block(element, stream))
            sum += static_cast<std::int32_t>(word & 0xffff) + static_cast<std::int32_t>(word >> 16);
        return sum;
    }

    // A whole number from 0 to count - 1.
    std::uint32_t below(std::uint32_t count, std::uint64_t element, std::uint32_t stream = 0) const {
        return static_cast<std::uint32_t>((std::uint64_t{block(element, stream)[0]} * count) >> 32);
    }
};

// bell() has variance 8 (65536^2 - 1) / 12 = 2863311530: the constant that gives it deviation `std`.
inline float bell_constant(double std) { return static_cast<float>(std / 53509.91992145008); }

// One correctly rounded float32 product of an exact integer: no platform can differ.
inline float bell_sample(const RandomTensor& random, float constant, std::uint64_t element,
                         std::uint32_t stream = 0) {
    return static_cast<float>(random.bell(element, stream)) * constant;
}

}  // namespace dsa
