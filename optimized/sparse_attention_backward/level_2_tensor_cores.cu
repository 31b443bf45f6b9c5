// Level 2. The five products are the tensor cores'. For dkv a block has one query and 64 of its latents, and writes
// down what all heads of the query give to them; then a block a latent adds what its queries gave, in their order.
// Some queries at a time, so that what is written down fits into 1 GiB.
#include "optimized/attention/selected.h"
#include "optimized/attention/selectors.h"
#include "optimized/attention/tile_of_keys.cuh"
#include "optimized/sparse_attention_backward/delta.cuh"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using tile_of_keys::keys_each;
using tile_of_keys::pitch;
using tile_of_keys::threads;
using tile_of_keys::warps;

constexpr int heads_each = 32;
constexpr int step = mma_bytes / 2;                                                   // of k in a product
constexpr int column_tiles = tile_of_keys::widest / mma_columns / warps;              // of d, a warp
constexpr int score_tiles = heads_each / mma_rows * keys_each / mma_columns / warps;  // 16 x 8, a warp
constexpr int key_pitch = keys_each + 8;
constexpr int head_pitch = heads_each + 8;

using Heads = HeadsOfOneQuery<heads_each>;

struct Tile {
    bf16 q[heads_each][pitch];
    bf16 dout[heads_each][pitch];
    bf16 keys[keys_each][pitch];
    float lse[heads_each];
    float delta[heads_each];
    std::int64_t positions[keys_each];  // -1: nothing
};
struct SharedOfHeads {
    Tile tile;
    bf16 d_scores[heads_each][key_pitch];
};
struct SharedOfLatents {
    Tile tile;
    bf16 p[keys_each][head_pitch];
    bf16 d_scores[keys_each][head_pitch];
};

__device__ void bring_heads(Tile& tile, const SparseAttentionBackward& call, const float* delta, const Heads& heads,
                            std::int64_t group) {
    tile_of_keys::fill(tile.q, static_cast<int>(call.d), [&](int r, int c) {
        const std::int64_t row = heads.row(group, r);
        return row < 0 ? Piece{} : *reinterpret_cast<const Piece*>(call.q + row * call.d + c);
    });
    tile_of_keys::fill(tile.dout, static_cast<int>(call.d_v), [&](int r, int c) {
        const std::int64_t row = heads.row(group, r);
        return row < 0 ? Piece{} : *reinterpret_cast<const Piece*>(call.dout + row * call.d_v + c);
    });
    for (int r = static_cast<int>(threadIdx.x); r < heads_each; r += threads) {
        const std::int64_t row = heads.row(group, r);
        tile.lse[r] = row < 0 ? 0.0F : call.lse[row];
        tile.delta[r] = row < 0 ? 0.0F : delta[row];
    }
}

// The latents in slots [first, first + 64) of a row of kept indices, [k]. All threads come; the last step is a
// barrier.
__device__ void bring_latents(Tile& tile, const SparseAttentionBackward& call, const std::int32_t* kept,
                              std::int64_t first) {
    for (int i = static_cast<int>(threadIdx.x); i < keys_each; i += threads)
        tile.positions[i] = first + i < call.k ? kept[first + i] : -1;
    __syncthreads();
    tile_of_keys::fill(tile.keys, static_cast<int>(call.d), [&](int i, int c) {
        if (tile.positions[i] < 0) return Piece{};
        return *reinterpret_cast<const Piece*>(call.kv + tile.positions[i] * call.d + c);
    });
    __syncthreads();
}

// put(head, key, p, dscore) for all of the tile: p = exp(logit - lse), dscore = p (dout . value - delta) scale; both
// 0 where there is no head or no latent.
template <class Put>
__device__ void weigh(const Tile& tile, const SparseAttentionBackward& call, const Heads& heads, std::int64_t group,
                      Put put) {
    constexpr int key_tiles = keys_each / mma_columns;
    const int m = warp_id() * score_tiles / key_tiles * mma_rows;
    const int n = warp_id() * score_tiles % key_tiles * mma_columns;
    float score[score_tiles][4] = {};
    float d_p[score_tiles][4] = {};
    for (int k = 0; k < call.d; k += step) {
        std::uint32_t a[4];
        std::uint32_t a_out[4];
        const bool is_value = k < call.d_v;
        load_a(a, &tile.q[m][k], sizeof tile.q[0]);
        if (is_value) load_a(a_out, &tile.dout[m][k], sizeof tile.dout[0]);
#pragma unroll
        for (int j = 0; j < score_tiles; ++j) {
            std::uint32_t b[2];
            load_b(b, &tile.keys[n + j * mma_columns][k], sizeof tile.keys[0]);
            mma<bf16>(score[j], a, b);
            if (is_value) mma<bf16>(d_p[j], a_out, b);
        }
    }
#pragma unroll
    for (int j = 0; j < score_tiles; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int head = m + mma_row(lane_id()) + i / 2 * 8;
            const int key = n + j * mma_columns + mma_column(lane_id()) + i % 2;
            float p = 0.0F;
            float d_score = 0.0F;
            if (heads.row(group, head) >= 0 && tile.positions[key] >= 0) {
                p = expf(score[j][i] * call.scale - tile.lse[head]);
                d_score = p * (d_p[j][i] - tile.delta[head]) * call.scale;
            }
            put(head, key, to_bf16(p), to_bf16(d_score));
        }
}

// dq = dscore kv. Block (32 heads of a query).
__global__ void __launch_bounds__(threads)
    gradient_of_heads(SparseAttentionBackward call, const std::int32_t* kept, const float* delta) {
    auto& memory = shared<SharedOfHeads>();
    Tile& tile = memory.tile;
    const Heads heads{call.H};
    const std::int64_t group = blockIdx.x;
    const std::int64_t t = heads.query(group);
    constexpr int row_tiles = heads_each / mma_rows;
    float dq[row_tiles][column_tiles][4] = {};
    bring_heads(tile, call, delta, heads, group);
    for (std::int64_t first = 0; first < call.k; first += keys_each) {
        bring_latents(tile, call, kept + t * call.k, first);
        weigh(tile, call, heads, group,
              [&](int head, int key, bf16, bf16 d_score) { memory.d_scores[head][key] = d_score; });
        __syncthreads();
#pragma unroll
        for (int k = 0; k < keys_each; k += step) {
            std::uint32_t a[row_tiles][4];
#pragma unroll
            for (int m = 0; m < row_tiles; ++m)
                load_a(a[m], &memory.d_scores[m * mma_rows][k], sizeof memory.d_scores[0]);
#pragma unroll
            for (int j = 0; j < column_tiles; ++j) {
                const int n = (warp_id() + j * warps) * mma_columns;
                if (n >= call.d) continue;
                std::uint32_t b[2];
                tile_of_keys::load_b_of_rows(b, tile.keys, k + mma_column(lane_id()), n + mma_row(lane_id()));
#pragma unroll
                for (int m = 0; m < row_tiles; ++m) mma<bf16>(dq[m][j], a[m], b);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < row_tiles; ++m)
#pragma unroll
        for (int j = 0; j < column_tiles; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const std::int64_t row = heads.row(group, m * mma_rows + mma_row(lane_id()) + i / 2 * 8);
                const int column = (warp_id() + j * warps) * mma_columns + mma_column(lane_id()) + i % 2;
                if (row >= 0 && column < call.d) call.dq[row * call.d + column] = to_bf16(dq[m][j][i]);
            }
}

// given[query - first_query, slot] = dscore^T q + p^T dout, summed over heads. Block (query - first_query, 64 slots).
// 4 x 9 tiles of 16 x 8 a warp.
__global__ void __launch_bounds__(threads)
    give_to_latents(SparseAttentionBackward call, const std::int32_t* kept, const float* delta, float* given,
                    std::int64_t first_query) {
    auto& memory = shared<SharedOfLatents>();
    Tile& tile = memory.tile;
    const Heads heads{call.H};
    const std::int64_t t = first_query + blockIdx.x;
    const std::int64_t first = std::int64_t{blockIdx.y} * keys_each;
    constexpr int row_tiles = keys_each / mma_rows;
    float sum[row_tiles][column_tiles][4] = {};
    bring_latents(tile, call, kept + t * call.k, first);
    for (std::int64_t group = t * heads.groups(); group < (t + 1) * heads.groups(); ++group) {
        bring_heads(tile, call, delta, heads, group);
        __syncthreads();
        weigh(tile, call, heads, group, [&](int head, int key, bf16 p, bf16 d_score) {
            memory.p[key][head] = p;
            memory.d_scores[key][head] = d_score;
        });
        __syncthreads();
#pragma unroll 1
        for (int k = 0; k < heads_each; k += step) {
            std::uint32_t a[row_tiles][4];
            std::uint32_t a_p[row_tiles][4];
#pragma unroll
            for (int m = 0; m < row_tiles; ++m) {
                load_a(a[m], &memory.d_scores[m * mma_rows][k], sizeof memory.d_scores[0]);
                load_a(a_p[m], &memory.p[m * mma_rows][k], sizeof memory.p[0]);
            }
#pragma unroll
            for (int j = 0; j < column_tiles; ++j) {
                const int n = (warp_id() + j * warps) * mma_columns;
                if (n >= call.d) continue;
                const int from = k + mma_column(lane_id());
                std::uint32_t b[2];
                tile_of_keys::load_b_of_rows(b, tile.q, from, n + mma_row(lane_id()));
#pragma unroll
                for (int m = 0; m < row_tiles; ++m) mma<bf16>(sum[m][j], a[m], b);
                if (n >= call.d_v) continue;
                tile_of_keys::load_b_of_rows(b, tile.dout, from, n + mma_row(lane_id()));
#pragma unroll
                for (int m = 0; m < row_tiles; ++m) mma<bf16>(sum[m][j], a_p[m], b);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < row_tiles; ++m)
#pragma unroll
        for (int j = 0; j < column_tiles; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int key = m * mma_rows + mma_row(lane_id()) + i / 2 * 8;
                const int column = (warp_id() + j * warps) * mma_columns + mma_column(lane_id()) + i % 2;
                if (tile.positions[key] < 0 || column >= call.d) continue;
                given[(blockIdx.x * call.k + first + key) * call.d + column] = sum[m][j][i];
            }
}

// slot_of[query - first_query, position], where the query selected it; elsewhere it is left as it is, and never read.
__global__ void __launch_bounds__(threads)
    note_slots(const std::int32_t* kept, std::int32_t* slot_of, std::int64_t k, std::int64_t S) {
    for (std::int64_t i = threadIdx.x; i < k; i += threads) {
        const std::int64_t position = kept[blockIdx.x * k + i];
        if (position >= 0) slot_of[blockIdx.x * S + position] = static_cast<std::int32_t>(i);
    }
}

// dkv += what queries [first_query, last_query) gave, in their order. Block (position).
__global__ void __launch_bounds__(threads)
    add_to_latent(SparseAttentionBackward call, const std::uint32_t* bits, const std::int32_t* slot_of,
                  const float* given, std::int64_t first_query, std::int64_t last_query) {
    const std::int64_t position = blockIdx.x;
    const std::int64_t words = (call.T + 31) / 32;
    constexpr int columns_each = (tile_of_keys::widest + threads - 1) / threads;
    float dkv[columns_each];
#pragma unroll
    for (int j = 0; j < columns_each; ++j) {
        const std::int64_t column = threadIdx.x + j * threads;
        dkv[j] = first_query == 0 || column >= call.d ? 0.0F : call.dkv[position * call.d + column];
    }
    for (std::int64_t word = first_query / 32; word * 32 < last_query; ++word)
        for (std::uint32_t left = bits[position * words + word]; left != 0; left &= left - 1) {
            const std::int64_t query = word * 32 + __ffs(left) - 1 - first_query;
            const float* row = given + (query * call.k + slot_of[query * call.S + position]) * call.d;  // [d]
#pragma unroll
            for (int j = 0; j < columns_each; ++j) {
                const std::int64_t column = threadIdx.x + j * threads;
                if (column < call.d) dkv[j] += row[column];
            }
        }
#pragma unroll
    for (int j = 0; j < columns_each; ++j) {
        const std::int64_t column = threadIdx.x + j * threads;
        if (column < call.d) call.dkv[position * call.d + column] = dkv[j];
    }
}

struct Scratch {
    std::int64_t queries;   // at a time: whole words of the bits
    std::int32_t* kept;     // [T, k]
    std::uint32_t* bits;    // [S, selector_words(T)]
    float* delta;           // [T, H]
    float* given;           // [queries, k, d]
    std::int32_t* slot_of;  // [queries, S]

    Scratch(const SparseAttentionBackward& call, Arena& arena) {
        constexpr std::int64_t most_bytes = std::int64_t{1} << 30;
        constexpr std::int64_t in_word = 32;
        const std::int64_t bytes_each = 4 * (call.k * call.d + call.S);  // a query
        const std::int64_t fit = most_bytes / std::max<std::int64_t>(1, bytes_each) / in_word * in_word;
        queries = std::min(call.T, std::max(in_word, fit));
        kept = arena.take<std::int32_t>(call.T * call.k);
        bits = arena.take<std::uint32_t>(call.S * selector_words(call.T));
        delta = arena.take<float>(call.T * call.H);
        given = arena.take<float>(queries * call.k * call.d);
        slot_of = arena.take<std::int32_t>(queries * call.S);
    }
};

}  // namespace

std::string sparse_attention_backward_level_2_declines(const SparseAttentionBackward& call) {
    if (call.d_v % 8 != 0) return sentence("out must be of a multiple of 8 columns; it is of ", call.d_v);
    return tile_of_keys_declines(call.d, call.d_v);
}

std::int64_t sparse_attention_backward_workspace_2(const SparseAttentionBackward& call) {
    Arena arena;
    const Scratch scratch(call, arena);
    return arena.bytes();
}

void sparse_attention_backward_level_2(const SparseAttentionBackward& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_attention_backward_workspace_2(call));
    Arena arena(call.workspace);
    const Scratch scratch(call, arena);
    keep_selected(call.indices, scratch.kept, call.T, call.k, call.S, call.stream);
    mark_selectors(scratch.kept, scratch.bits, call.T, call.k, call.S, call.stream);
    delta_of_rows(call, scratch.delta);
    launch("gradient_of_heads", gradient_of_heads,
           {.blocks = call.T * blocks_for(call.H, heads_each),
            .threads = threads,
            .shared_bytes = sizeof(SharedOfHeads),
            .stream = call.stream},
           call, scratch.kept, scratch.delta);
    // Without a query the latents' gradient is 0, which add_to_latent also writes.
    for (std::int64_t first = 0; first == 0 || first < call.T; first += scratch.queries) {
        const std::int64_t count = std::min(scratch.queries, call.T - first);
        launch("give_to_latents", give_to_latents,
               {.blocks = count,
                .threads = threads,
                .shared_bytes = sizeof(SharedOfLatents),
                .stream = call.stream,
                .blocks_y = blocks_for(call.k, keys_each)},
               call, scratch.kept, scratch.delta, scratch.given, first);
        launch("note_slots", note_slots, {.blocks = count, .threads = threads, .stream = call.stream},
               scratch.kept + first * call.k, scratch.slot_of, call.k, call.S);
        launch("add_to_latent", add_to_latent, {.blocks = call.S, .threads = threads, .stream = call.stream}, call,
               scratch.bits, scratch.slot_of, scratch.given, first, first + count);
        if (scratch.queries == 0) break;
    }
}

}  // namespace dsa
