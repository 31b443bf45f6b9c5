// Level 2. D / 128 blocks are 56 of V3.2's D = 7168, fewer than the GPU has multiprocessors, and each walks down all
// tokens. Split into pieces, the tokens keep all of them busy; the pieces' sums are added in their order.
#include "optimized/column_sums/column_sums.h"
#include "optimized/rms_norm_backward/rows.cuh"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

struct Scratch {
    std::int64_t pieces;
    float* inverse_rms;  // [T]
    float* sums;         // [pieces, D]

    Scratch(const RmsNormBackward& call, Arena& arena) : pieces(pieces_of_tokens(call.T, call.D)) {
        inverse_rms = arena.take<float>(call.T);
        sums = arena.take<float>(pieces * call.D);
    }
};

}  // namespace

std::int64_t rms_norm_backward_level_2_workspace(const RmsNormBackward& call) {
    Arena arena;
    const Scratch scratch(call, arena);
    return arena.bytes();
}

void rms_norm_backward_level_2(const RmsNormBackward& call) {
    require_workspace(call.workspace, call.workspace_bytes, rms_norm_backward_level_2_workspace(call));
    Arena arena(call.workspace);
    const Scratch scratch(call, arena);
    rms_norm_backward::gradient_of_rows(call, scratch.inverse_rms);
    rms_norm_backward::gradient_of_weights(call, scratch.inverse_rms, scratch.sums, scratch.pieces);
    add_pieces(scratch.sums, call.dweight, scratch.pieces, call.D, call.stream);
}

}  // namespace dsa
