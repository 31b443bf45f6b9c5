// Level 11. The two blocks of a query convert all of v each in level 10. Here they are a cluster, and each weighs
// half of the columns for the heads of both (column_halves.cuh): p goes from block to block, 8 KB a tile of 64
// tokens.
#include "optimized/attention/softmax.cuh"
#include "optimized/hopper/dependent.h"
#include "optimized/sparse_decode/column_halves.cuh"
#include "optimized/sparse_decode/op.h"
#include "optimized/sparse_decode/query_panels.cuh"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace code_tiles;

constexpr int multiprocessors = 132;

// As in level 10: what the block after this one begins with comes to the L2 cache.
__device__ void ask_for_beginning(int block, int groups, const bf16* q, const std::uint8_t* pages,
                                  const std::int32_t* indices, std::int64_t cache_slots, int H, int k) {
    if (block >= static_cast<int>(gridDim.x)) return;
    const std::int64_t query = block / groups;
    const int first_head = block % groups * heads_of_block, count = max(0, min(heads_of_block, H - first_head));
    const std::int32_t* row = indices + query * k;
    if (warp_id() % 4 == 0 && lane_id() == 0) {
        if (count > 0) bulk_prefetch(q + (query * H + first_head) * width, count * 2 * width);
        if (k % 4 == 0) bulk_prefetch(row, k * 4);
    }
    const int i = warp_id() % 4 * Ring::rows_each + lane_id();
    if (lane_id() >= Ring::rows_each || i >= k) return;
    const std::int32_t slot = row[i];
    if (slot >= 0 && slot < cache_slots) bulk_prefetch(pages + std::int64_t{slot} * token_bytes, token_bytes);
}

// Block (query and 64 heads). indices: [rows, k]
__global__ void __launch_bounds__(threads, 1)
    attend_halves(const bf16* q, const std::uint8_t* pages, const std::int32_t* indices, std::int64_t cache_slots,
                  AttentionResult result, int H, int k) {
    let_next_kernel_start();
    auto& memory = shared<HalvesMemory>();
    const int groups = (H + all_heads - 1) / all_heads * blocks_of_query;  // of a query
    const std::int64_t query = static_cast<int>(blockIdx.x) / groups;
    const int rank = cluster_rank(), first_head = static_cast<int>(blockIdx.x) % groups * heads_of_block;
    const int count = max(0, min(heads_of_block, H - first_head));
    const std::int64_t first = query * H + first_head;  // row of out
    const int tiles = max(1, (k + tokens - 1) / tokens);
    const std::int32_t* row = indices + query * k;
    const int thread = static_cast<int>(threadIdx.x), role = thread / warpgroup;
    const QueryPanels<heads_of_block, HalvesMemory> of_q{memory, count};
    Turn turn;
    if (role == weighing + 1) {
        give_back_registers<carrier_registers>();
        if (thread % warpgroup == 0) {
            init_barriers(memory);
            of_q.bring(q + first * width);
        }
        cluster_sync();
        bring(memory.ring, pages, row, k, tiles, cache_slots, warp_id() % 4,
              [&] { mbarrier_wait_in_block(memory.q_taken, 0); });
        ask_for_beginning(static_cast<int>(blockIdx.x) + multiprocessors, groups, q, pages, indices, cache_slots, H,
                          k);
        cluster_sync();
        return;
    }
    if (role < weighing) {
        auto mine = Selection::read(row, k, thread);
        Selection::clear(memory.table, thread);
        cluster_sync();
        memory.selection.find(memory.table, mine, row, cache_slots, thread, of_weighers);
        warp_arrives(memory.counts_known);
        fence_proxy_async_shared();
        cached_tiles::tell_cluster<blocks_of_query>(memory.p_empty);
    } else {
        if (thread % warpgroup < heads_of_block) memory.reference[thread % warpgroup] = nothing;
        cluster_sync();
    }
    of_q.convert(of_both);
    if (role == weighing) {
        give_back_registers<scorer_registers>();
        mbarrier_wait_in_block(memory.q_taken, 0);
        Scorer<heads_of_block, HalvesMemory> scorer(memory, result.scale);
        scorer.set_scale();
        const auto counts = [&](int tile) {
            if (tile == 0) mbarrier_wait_in_block(memory.counts_known, 0);
            const std::uint32_t* words = memory.selection.counts + tile * tokens / 32;
            return words[0] | std::uint64_t{words[1]} << 32;
        };
        for (int tile = 0; tile < tiles; ++tile, turn.next()) scorer.score(tile, turn, counts);
        scorer.store_late(tiles - 1);
        scorer.tell(tiles - 1);
        scorer.finish([&](int head, float reference, float sum) {
            float one_over = 0.0F;
            if (head < count) {
                if (reference != minus_infinity())
                    one_over = 1.0F / denominator(result, first_head + head, reference, sum);
                result.lse[first + head] = told_lse(result, reference, sum);
            }
            for (int block = 0; block < blocks_of_query; ++block)
                *of_block(&memory.one_over[rank * heads_of_block + head], block) = one_over;
        });
        cluster_sync();
    } else {
        take_registers<weigher_registers>();
        HalfWeigher weigher(memory);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) weigher.weigh(tile, turn);
        cluster_sync();
        const int head_of_cluster = first_head - rank * heads_of_block;
        bf16* to = result.out + (query * H + head_of_cluster) * latent;
        weigher.each_four(H - head_of_cluster, [&](int head, int column, const Four& four) {
            const float by = memory.one_over[head];
            auto* pairs = reinterpret_cast<std::uint32_t*>(to + std::int64_t{head} * latent + column);
            pairs[0] = to_bf16_pair(four.at[0] * by, four.at[1] * by);
            pairs[1] = to_bf16_pair(four.at[2] * by, four.at[3] * by);
        });
    }
}

}  // namespace

std::string sparse_decode_level_11_declines(const SparseDecode& call) {
    if (std::string why = sparse_decode_level_10_declines(call); !why.empty()) return why;
    if (call.H <= heads_of_block) return sentence("there must be more than ", heads_of_block, " heads, not ", call.H);
    return {};
}

void sparse_decode_level_11(const SparseDecode& call) {
    if (call.rows == 0 || call.H == 0) return;
    launch("sparse_decode_halves", attend_halves,
           {.blocks = call.rows * blocks_for(call.H, all_heads) * blocks_of_query,
            .threads = threads,
            .shared_bytes = sizeof(HalvesMemory),
            .stream = call.stream,
            .cluster = blocks_of_query},
           call.q, call.kv_pages, call.indices, call.slots, call.result, static_cast<int>(call.H),
           static_cast<int>(call.k));
}

}  // namespace dsa
