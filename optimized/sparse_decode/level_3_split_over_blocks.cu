// Level 3. A request has too few rows to fill the GPU: its selection is split over blocks, and a second kernel adds
// the parts under their common maximum, always in the same order.
#include "optimized/attention/selected.h"
#include "optimized/sparse_decode/tensor_cores.h"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

constexpr int threads = 128;

// Block (row of q).
__global__ void __launch_bounds__(threads)
    combine(AttentionParts parts, AttentionResult result, std::int64_t all_rows, std::int64_t H, std::int64_t d_v,
            std::int64_t splits) {
    const std::int64_t row = blockIdx.x;
    float maximum = minus_infinity();
    for (std::int64_t i = 0; i < splits; ++i) maximum = Largest()(maximum, parts.maximum[i * all_rows + row]);
    float sum = 0.0F;
    for (std::int64_t i = 0; i < splits; ++i)
        sum += parts.sum[i * all_rows + row] * rescaling(parts.maximum[i * all_rows + row], maximum);
    const float below = denominator(result, row % H, maximum, sum);
    for (std::int64_t column = threadIdx.x; column < d_v; column += threads) {
        float out = 0.0F;
        for (std::int64_t i = 0; i < splits; ++i)
            out += parts.out[(i * all_rows + row) * d_v + column] *
                   rescaling(parts.maximum[i * all_rows + row], maximum);
        result.out[row * d_v + column] = to_bf16(maximum == minus_infinity() ? 0.0F : out / below);
    }
    if (threadIdx.x == 0) result.lse[row] = told_lse(result, maximum, sum);
}

// As many blocks as an H100 has multiprocessors, if there is work for them. The number is written here, not asked of
// the device: another device gives the same bits.
struct Splits {
    std::int64_t count, tiles_each;

    explicit Splits(const SparseDecode& call) {
        constexpr std::int64_t multiprocessors = 132;
        const std::int64_t tiles = std::max<std::int64_t>(1, blocks_for(call.k, tile_of_keys::keys_each));
        const std::int64_t blocks = std::max<std::int64_t>(1, call.rows * blocks_for(call.H, heads_of_a_block(call)));
        tiles_each = blocks_for(tiles, std::max<std::int64_t>(1, multiprocessors / blocks));
        count = blocks_for(tiles, tiles_each);
    }
};

struct Scratch {
    std::int32_t* kept;  // [rows, k]
    AttentionParts parts;

    Scratch(const SparseDecode& call, Arena& arena) {
        const std::int64_t parts_of_rows = Splits(call).count * call.rows * call.H;
        kept = arena.take<std::int32_t>(call.rows * call.k);
        parts.out = arena.take<float>(parts_of_rows * call.R_kv);
        parts.maximum = arena.take<float>(parts_of_rows);
        parts.sum = arena.take<float>(parts_of_rows);
    }
};

}  // namespace

std::int64_t sparse_decode_workspace_3(const SparseDecode& call) {
    if (Splits(call).count == 1) return sparse_decode_workspace_1(call);
    Arena arena;
    const Scratch scratch(call, arena);
    return arena.bytes();
}

void sparse_decode_level_3(const SparseDecode& call) {
    const Splits splits(call);
    if (splits.count == 1) return sparse_decode_level_2(call);
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_3(call));
    Arena arena(call.workspace);
    const Scratch scratch(call, arena);
    keep_selected(call.indices, scratch.kept, call.rows, call.k, call.slots, call.stream);
    if (heads_of_a_block(call) == 16)
        attend_cached<16>(call, scratch.kept, scratch.parts, splits.count, splits.tiles_each);
    else
        attend_cached<64>(call, scratch.kept, scratch.parts, splits.count, splits.tiles_each);
    launch("sparse_decode_combine", combine,
           {.blocks = call.rows * call.H, .threads = threads, .stream = call.stream}, scratch.parts, call.result,
           call.rows * call.H, call.H, std::int64_t{call.R_kv}, splits.count);
}

}  // namespace dsa
