// An indexer's conventions, for the ops that hold such a call.
#pragma once

#include <cmath>

#include "optimized/indexer_project/op.h"

namespace dsa {

// H_I and D_I and the rope table of call are set before.
inline void read_indexer_conventions(const Case& about, IndexerProject& call) {
    const Conventions& conventions = about.conventions();
    require(call.H_I > 0 && call.D_I > 0 && call.D_I <= widest_indexer_vector, "the indexer takes heads of 1 to ",
            widest_indexer_vector, " numbers, one head at least; H_I is ", call.H_I, ", D_I ", call.D_I);
    call.hadamard = conventions.hadamard;
    require(!call.hadamard || (call.D_I & (call.D_I - 1)) == 0,
            "the Hadamard transform needs a power of two; D_I is ", call.D_I);
    require(2 * call.rope.pairs <= call.D_I, "d_rope must be at most D_I = ", call.D_I, "; it is ",
            2 * call.rope.pairs);
    call.layout = conventions.indexer_rope;
    const double m = conventions.yarn_mscale_in_indexer ? about.rope().yarn_mscale() : 1.0;
    call.factor = static_cast<float>(m * m / std::sqrt(static_cast<double>(call.H_I * call.D_I)));
    call.weights_bf16 = conventions.weights_proj_bf16;
    call.quantizer = conventions.quantizer;
    call.ue8m0 = conventions.ue8m0;
}

}  // namespace dsa
