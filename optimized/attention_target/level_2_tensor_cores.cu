// Level 2. A key is brought once for 64 heads, and scores come from the tensor cores: first for the softmax of each
// head (the tile kernel of attention, without values), then again for the sum over heads.
#include "optimized/attention/candidates.cuh"
#include "optimized/attention/selected.h"
#include "optimized/attention/tile_keys.cuh"
#include "optimized/attention_target/normalise.cuh"
#include "optimized/attention_target/scratch.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using tile_of_keys::keys_each;
using tile_of_keys::threads;

constexpr int threads_a_key = threads / keys_each;

// p = sum over heads of exp(logit - maximum) / sum. Block (query, 64 slots); four threads share a slot's heads.
template <int heads>
__global__ void __launch_bounds__(threads)
    sum_over_heads(SelectedTile<heads> keys, const bf16* q, Candidates candidates, const float* maxima,
                   const float* sums, float* p, std::int64_t d, float scale, bool causal) {
    auto& memory = shared<tile_of_keys::Shared<heads>>();
    const std::int64_t t = blockIdx.x;
    const std::int64_t first = std::int64_t{blockIdx.y} * keys_each;
    for (int i = static_cast<int>(threadIdx.x); i < keys_each; i += threads) {
        const std::int64_t position = first + i < candidates.n ? candidates.position(t, first + i) : -1;
        memory.positions[i] = causal && position > candidates.last_seen(t) ? -1 : position;  // no probability there
    }
    __syncthreads();
    tile_of_keys::fill(memory.keys, static_cast<int>(d), [&](int i, int c) {
        return memory.positions[i] < 0 ? Piece{} : keys.key(0, memory.positions[i], c);
    });
    const int mine = static_cast<int>(threadIdx.x) / threads_a_key;
    float total = 0.0F;
    for (std::int64_t group = t * keys.groups(); group < (t + 1) * keys.groups(); ++group) {
        tile_of_keys::fill(memory.q, static_cast<int>(d), [&](int r, int c) {
            const std::int64_t row = keys.row(group, r);
            return row < 0 ? Piece{} : *reinterpret_cast<const Piece*>(q + row * d + c);
        });
        __syncthreads();
        tile_of_keys::score(memory, keys, group, scale, static_cast<int>(d));
        __syncthreads();
        for (int r = static_cast<int>(threadIdx.x) % threads_a_key; r < heads; r += threads_a_key) {
            const std::int64_t row = keys.row(group, r);
            if (row >= 0 && memory.positions[mine] >= 0)
                total += expf(memory.logits[r][mine] - maxima[row]) / sums[row];
        }
    }
#pragma unroll
    for (int flip = threads_a_key / 2; flip > 0; flip /= 2) total += __shfl_xor_sync(all_lanes, total, flip);
    if (threadIdx.x % threads_a_key == 0 && first + mine < candidates.n) p[t * candidates.n + first + mine] = total;
}

template <int heads>
void make_target(const AttentionTarget& call, const TargetScratch& scratch) {
    const bool all = call.indices == nullptr || call.renormalised;
    const AttentionParts softmax{nullptr, scratch.maximum, scratch.sum};
    AttentionResult result{};
    result.scale = call.scale;
    const SelectedTile<heads> on_set{{call.H}, {call.kv, scratch.kept, call.n, call.d}};
    const std::int64_t groups = call.T * blocks_for(call.H, heads);
    const std::int64_t rows = call.T * call.H;
    if (all)
        attend_tile_of_keys<heads>("softmax_of_heads",
                                   SeenTile<heads>{{call.H}, call.kv, {nullptr, call.T, call.S, true}, call.d},
                                   call.q, result, groups, rows, call.H, call.d, 0, call.stream, softmax);
    else
        attend_tile_of_keys<heads>("softmax_of_heads", on_set, call.q, result, groups, rows, call.H, call.d, 0,
                                   call.stream, softmax);
    launch("sum_over_heads", sum_over_heads<heads>,
           {.blocks = call.T,
            .threads = threads,
            .shared_bytes = sizeof(tile_of_keys::Shared<heads>),
            .stream = call.stream,
            .blocks_y = blocks_for(call.n, keys_each)},
           on_set, call.q, Candidates{scratch.kept, call.T, call.S, call.n}, scratch.maximum, scratch.sum, call.p,
           call.d, call.scale, all);
}

}  // namespace

std::string attention_target_level_2_declines(const AttentionTarget& call) {
    return tile_of_keys_declines(call.d, 0);
}

void attention_target_level_2(const AttentionTarget& call) {
    require_workspace(call.workspace, call.workspace_bytes, attention_target_workspace(call));
    Arena arena(call.workspace);
    const TargetScratch scratch(call, arena);
    if (call.indices != nullptr) keep_selected(call.indices, scratch.kept, call.T, call.n, call.S, call.stream);
    if (call.H <= 16)
        make_target<16>(call, scratch);
    else
        make_target<64>(call, scratch);
    normalise_target(call);
}

}  // namespace dsa
