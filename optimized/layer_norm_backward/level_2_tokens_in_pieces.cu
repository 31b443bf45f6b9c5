// Level 2. An indexer key has D = 128 columns: one block for all tokens. Split into pieces, the tokens keep the GPU
// busy; the pieces' sums are added in their order.
#include "optimized/column_sums/column_sums.h"
#include "optimized/layer_norm_backward/rows.cuh"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

struct Scratch {
    std::int64_t pieces;
    layer_norm_backward::Row* rows;  // [T]
    float* sums;                     // [pieces, D]
    float* biases;                   // [pieces, D]

    Scratch(const LayerNormBackward& call, Arena& arena) : pieces(pieces_of_tokens(call.T, call.D)) {
        rows = arena.take<layer_norm_backward::Row>(call.T);
        sums = arena.take<float>(pieces * call.D);
        biases = arena.take<float>(pieces * call.D);
    }
};

}  // namespace

std::int64_t layer_norm_backward_level_2_workspace(const LayerNormBackward& call) {
    Arena arena;
    const Scratch scratch(call, arena);
    return arena.bytes();
}

void layer_norm_backward_level_2(const LayerNormBackward& call) {
    require_workspace(call.workspace, call.workspace_bytes, layer_norm_backward_level_2_workspace(call));
    Arena arena(call.workspace);
    const Scratch scratch(call, arena);
    layer_norm_backward::gradient_of_rows(call, scratch.rows);
    layer_norm_backward::gradient_of_weights(call, scratch.rows, scratch.sums, scratch.biases, scratch.pieces);
    add_pieces(scratch.sums, call.dweight, scratch.pieces, call.D, call.stream);
    add_pieces(scratch.biases, call.dbias, scratch.pieces, call.D, call.stream);
}

}  // namespace dsa
