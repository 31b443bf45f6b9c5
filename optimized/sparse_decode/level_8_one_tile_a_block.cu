// Level 8, for one or two queries. They are all latency, and a pipeline has nothing to overlap: each block has one
// tile of 64 tokens, and all of its 16 warps do one thing after the other: read, find which slots count while the
// tokens come, convert, score (four warps), weigh 128 columns a warpgroup, leave the part.
#include "optimized/attention/adding.cuh"
#include "optimized/attention/distinct.cuh"
#include "optimized/hopper/dependent.h"
#include "optimized/sparse_decode/converter.cuh"
#include "optimized/sparse_decode/op.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using namespace latent_tile;
using cached_tiles::Pieces;

constexpr int threads = 4 * warpgroup;
#if defined(DSA_SIMULATOR)
constexpr int multiprocessors = 16;  // more blocks than this are too slow there
#else
constexpr int multiprocessors = 132;
#endif
using Selecting = DistinctSlots<threads, 2048, 12>;  // level 5 takes no more slots
enum : int { selection_barrier = 1, warpgroup_barrier = 2 };

struct Memory {
    Rows keys;
    Rows q;
    Panel p;
    Selecting::Table selection;
    std::uint32_t counts[2];  // of the tile: a bit a slot
    Mbarrier q_full;
};
constexpr int sums_bytes = heads * d_v / 4 * 4;  // of a warpgroup
static_assert(4 * sums_bytes <= 2 * sizeof(Rows), "sums leave by way of keys and q");

// How many heads a block has, so that there are as many blocks as multiprocessors, but no more.
struct Cut {
    int rows, H, k;  // rows: B s_q
    int heads_each, groups, parts;

    explicit Cut(const SparseDecode& call)
        : rows(static_cast<int>(call.rows)), H(static_cast<int>(call.H)), k(static_cast<int>(call.k)) {
        parts = static_cast<int>(blocks_for(call.k, keys));
        heads_each = heads;
        while (heads_each > 16 && rows * blocks_for(H, heads_each / 2) * parts <= multiprocessors) heads_each /= 2;
        groups = static_cast<int>(blocks_for(H, heads_each));
    }
    std::int64_t blocks() const { return std::int64_t{rows} * groups * parts; }
};

// Block (group of heads of a query; part of the selection). indices: [rows, k].
__global__ void __launch_bounds__(threads, 1)
    attend(const std::uint8_t* pages, const std::int32_t* indices, std::int64_t cache_slots, float scale, Parts parts,
           Cut cut, const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap sums_map) {
    let_next_kernel_start();
    auto& memory = shared<Memory>();
    const int query = static_cast<int>(blockIdx.x) / cut.groups, part = static_cast<int>(blockIdx.y);
    const int first_head = static_cast<int>(blockIdx.x) % cut.groups * cut.heads_each;
    const int first_row = query * cut.H + first_head;
    const std::int32_t* row = indices + std::int64_t{query} * cut.k;

    // Warps 4 i + w have scale w of tokens 8 i ... 8 i + 7, and those 32 further on; w = 0 and 1 their rotated
    // columns.
    const int thread = static_cast<int>(threadIdx.x), group = thread / warpgroup;
    const int w = warp_id() % 4, t = lane_id() / 4, c = lane_id() % 4;
    const cached_tiles::Reading from(pages, w, c);
    std::int32_t slot[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const int i = part * keys + (group + 4 * j) * 8 + t;
        slot[j] = i < cut.k ? row[i] : -1;
    }
    auto mine = Selecting::read(row, min(cut.k, (part + 1) * keys), thread);
    Selecting::clear(memory.selection, thread);
    if (thread == 0) {
        mbarrier_init(memory.q_full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(memory.q_full, sizeof memory.q);
        for (int panel = 0; panel < panels; ++panel)
            tma_load(&memory.q.panel[panel], q_map, {panel * panel_columns, first_row}, memory.q_full);
    }
    bool none[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        none[j] = slot[j] < 0 || slot[j] >= cache_slots;
        if (none[j]) slot[j] = 0;
    }
    Pieces pieces[2];
    cached_tiles::Turned turned;
#pragma unroll
    for (int j = 0; j < 2; ++j) pieces[j].load(from, slot[j]);
    if (w < 2) turned.load(from, w == 0 ? slot[0] : slot[1]);

    barrier_sync(selection_barrier, threads);
    Selecting::find_cleared(memory.selection, mine, row, cache_slots, thread, selection_barrier,
                            [&](int i, std::uint32_t counts) {
                                i -= part * keys;
                                if (i >= 0 && i < keys) memory.counts[i / 32] = counts;
                            });

#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const int first = ((group + 4 * j) * 8 + t) * row_bytes;  // of the token's row in its panels
        auto* to = reinterpret_cast<unsigned char*>(&memory.keys.panel[2 * w]) + first;
        if (pieces[j].make(to, t, c, sizeof(Panel), none[j])) pieces[j].make_one_by_one(to, t, c, sizeof(Panel));
        if (w == j) turned.store(reinterpret_cast<unsigned char*>(&memory.keys.weights()) + first, t, c, none[j]);
    }
    fence_proxy_async_shared();
    __syncthreads();

    if (group == 0) {
        float s[keys / 2];
        mbarrier_wait_in_block(memory.q_full, 0);
        wgmma_fence();
        score<panels>(s, memory.q.panel, memory.keys.panel, false);
        wgmma_commit();
        wgmma_wait<0>();
        hold(s);
        RunningSoftmax softmax;
        const std::uint32_t valid[2] = {memory.counts[0], memory.counts[1]};
        softmax.step(s, valid, scale * one_over_ln2);
        store_weights<32>(s, &memory.p);
        fence_proxy_async_shared();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float sum = softmax.total(r);
            const int head = wgmma_row(thread, 2 * r);
            if (lane_id() % 4 != 0 || head >= cut.heads_each || first_head + head >= cut.H) continue;
            const std::int64_t at = std::int64_t{first_row + head} * cut.parts + part;
            // Where all logits are NaN there is no maximum; nor is the row empty.
            parts.maximum[at] = sum != sum ? sum : softmax.reference[r] * scale;
            parts.sum[at] = sum;
        }
    }
    __syncthreads();

    float out[d_v / 8];  // [heads, d_v / 4]
    wgmma_fence();
    weigh(out, &memory.p, &memory.keys.panel[2 * group], false);
    wgmma_commit();
    wgmma_wait<0>();
    hold(out);
    __syncthreads();  // all products have read keys

    auto* place = reinterpret_cast<unsigned char*>(&memory.keys) + group * sums_bytes;
    if (wgmma_row(thread, 0) < cut.heads_each) store_sums<d_v / 8>(out, 0, place);
    fence_proxy_async_shared();
    barrier_sync(warpgroup_barrier + group, warpgroup);
    if (thread % warpgroup == 0) {
        constexpr int columns = row_bytes / 4;
        for (int panel = 0; panel < d_v / 4 / columns; ++panel)
            tma_store(sums_map, {group * d_v / 4 + panel * columns, first_head, part * cut.rows + query},
                      place + panel * static_cast<int>(sizeof(Panel)));
        bulk_commit();
        bulk_wait<0>();
    }
}

}  // namespace

std::string sparse_decode_level_8_declines(const SparseDecode& call) {
    const std::string why = sparse_decode_level_7_declines(call);
    if (!why.empty()) return why;
    const Cut cut(call);
    if (cut.parts < 2) return sentence("a query of ", call.k, " slots has nothing to share out");
    if (cut.blocks() > multiprocessors)
        return sentence("all tiles must be worked on at once, by ", multiprocessors, " blocks; here are ",
                        cut.blocks());
    return {};
}

std::int64_t sparse_decode_workspace_8(const SparseDecode& call) {
    Arena arena;
    Parts(Cut(call).parts, call.rows * call.H, arena);
    return arena.bytes();
}

void sparse_decode_level_8(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_8(call));
    if (call.rows == 0 || call.H == 0) return;
    const Cut cut(call);
    Arena arena(call.workspace);
    const Parts parts(cut.parts, call.rows * call.H, arena);
    launch("sparse_decode_one_tile", attend,
           {.blocks = cut.rows * cut.groups,
            .threads = threads,
            .shared_bytes = sizeof(Memory),
            .stream = call.stream,
            .blocks_y = cut.parts},
           call.kv_pages, call.indices, call.slots, call.result.scale, parts, cut,
           matrix_map("q", call.q, call.rows * call.H, d, d, heads, panel_columns, wide),
           heads_map("the workspace", parts.out, call.rows * cut.parts, call.H, cut.heads_each));
    add_parts<true, true>(parts, call.result, call.rows, call.H, cut.parts, call.stream);
}

}  // namespace dsa
