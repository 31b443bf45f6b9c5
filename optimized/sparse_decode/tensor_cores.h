// What levels 2 and 3 share: the tile kernel over cached tokens.
#pragma once

#include "optimized/attention/tile_keys.cuh"
#include "optimized/sparse_decode/op.h"

namespace dsa {

inline int heads_of_a_block(const SparseDecode& call) { return call.H <= 16 ? 16 : 64; }

template <int heads>
void attend_cached(const SparseDecode& call, const std::int32_t* kept, const AttentionParts& parts = {},
                   std::int64_t splits = 1, std::int64_t tiles_each = std::int64_t{1} << 40) {
    const SelectedTokens tokens{call.kv_pages, kept, call.k, call.token_bytes(), call.R_kv, call.block()};
    attend_tile_of_keys<heads>("sparse_decode_tile", SelectedTokenTile<heads>{{call.H}, tokens}, call.q, call.result,
                               call.rows * blocks_for(call.H, heads), call.rows * call.H, call.H, call.d, call.R_kv,
                               call.stream, parts, splits, tiles_each);
}

}  // namespace dsa
