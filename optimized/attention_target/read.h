// What attention_target and indexer_kl_loss are both asked about: the T last tokens of S, and for each either the
// selected positions or all causal ones.
#pragma once

#include "optimized/support/arguments.h"
#include "optimized/support/refusal.h"

namespace dsa {

struct CandidateIndices {
    const std::int32_t* indices;  // [T, n], or null: all S
    std::int64_t n;               // candidates a query: k, or S
};

// T and S are bound already; binds "k or S" to n.
inline CandidateIndices read_candidates(Arguments& tensors, const dsa_tensor& indices) {
    const std::int64_t T = tensors.size("T");
    const std::int64_t S = tensors.size("S");
    require(S >= T, "the T = ", T, " queries are the last of the context: S must be at least T; it is ", S);
    CandidateIndices found{tensors.maybe<std::int32_t>("indices", indices, {"T", "k"}), S};
    if (found.indices != nullptr) found.n = tensors.size("k");
    tensors.bind("k or S", found.n);
    return found;
}

}  // namespace dsa
