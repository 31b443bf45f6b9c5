// Reading selectors' bits: attention/selectors.h.
#pragma once

#include <cstdint>

#include "optimized/hopper/device.h"

namespace dsa {

// Whether query t selected position s. bits: [S, selector_words(T)]
__device__ inline bool is_selected(const std::uint32_t* bits, std::int64_t T, std::int64_t s, std::int64_t t) {
    return (bits[s * ((T + 31) / 32) + t / 32] >> (t % 32) & 1U) != 0;
}

}  // namespace dsa
