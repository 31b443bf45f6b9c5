// Who selected a position? A bit for each query: read in order, they give a sum over queries one order.
#pragma once

#include "optimized/support/call.h"

namespace dsa {

// Words of a position's bits.
inline std::int64_t selector_words(std::int64_t T) { return (T + 31) / 32; }

// bits[s, t / 32] has bit t % 32 where kept[t, i] = s for some i. kept: [T, k]  bits: [S, selector_words(T)]
void mark_selectors(const std::int32_t* kept, std::uint32_t* bits, std::int64_t T, std::int64_t k, std::int64_t S,
                    Stream stream);

}  // namespace dsa
