// What every op's description is made of: the number formats, the stream, and sentences.
#pragma once

#include <cstdint>
#include <string>

#include "optimized/support/refusal.h"

namespace dsa {

struct bf16 {
    std::uint16_t bits;
};
struct e4m3 {
    std::uint8_t bits;
};

using Stream = void*;  // a cudaStream_t

}  // namespace dsa
