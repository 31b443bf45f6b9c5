// k, as top_k and indexer_top_k read it; binds the axis topk.
#pragma once

#include "optimized/support/arguments.h"
#include "optimized/support/case.h"

namespace dsa {

inline std::int64_t read_k(const Case& about, Arguments& tensors, std::int64_t field) {
    const std::int64_t k = about.whole("topk", field, 0);
    constexpr std::int64_t most = 0x7fffffff;
    require(k > 0 && k <= most, "the parameter topk must say how many positions a row may select, from 1 to ", most,
            "; it is ", k);
    tensors.bind("topk", k);
    return k;
}

// Positions are stored as int32, and -2 - s must be one too.
inline void require_positions(std::int64_t S) {
    constexpr std::int64_t most = 0x7ffffff0;
    require(S <= most, "positions are stored as int32: S must be at most ", most, "; it is ", S);
}

}  // namespace dsa
