// The end of every sum over tokens that was made in pieces: not an op of the contract, but what the gradients of
// norms' weights are composed of. The pieces are added in their order, so that the bits are the same in every run.
#pragma once

#include "optimized/support/call.h"

namespace dsa {

// sums[d] = parts[0, d] + parts[1, d] + ...   parts: [pieces, D]
void add_pieces(const float* parts, float* sums, std::int64_t pieces, std::int64_t D, Stream stream);

// Into how many pieces T tokens are split: so many that blocks of 128 columns fill the GPU, each of at least 32
// tokens. The number follows from the sizes alone.
std::int64_t pieces_of_tokens(std::int64_t T, std::int64_t D);

}  // namespace dsa
