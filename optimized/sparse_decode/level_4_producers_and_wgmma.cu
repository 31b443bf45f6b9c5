// Level 4. One warpgroup reads tokens and makes bf16 of them by moving bits, two others multiply by wgmma: reading,
// converting, the softmax and the products go on at the same time.
#include "optimized/attention/selected.h"
#include "optimized/sparse_decode/parts.cuh"
#include "optimized/sparse_decode/tiles.cuh"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace cached_tiles;

// Block (query, group of heads; part of the selection). kept: [rows, k], -1 where a slot does not count.
__global__ void __launch_bounds__(threads, 1)
    attend(const bf16* q, const std::uint8_t* pages, const std::int32_t* kept, AttentionResult result, Parts parts,
           Plan plan) {
    auto& memory = shared<Memory>();
    const Work work = plan.work(static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y));
    const std::int32_t* slots = kept + work.query * plan.k + work.first_slot;
    attend_part<1>(
        memory, q, pages, work, plan, result, parts, [slots](int i) { return slots[i]; },
        [&] {
            for (int i = static_cast<int>(threadIdx.x) % warpgroup; i < work.tiles() * tokens; i += warpgroup) {
                const std::uint32_t counts = __ballot_sync(all_lanes, i < work.slots && slots[i] >= 0);
                if (lane_id() == 0) memory.counts[i / 32] = counts;
            }
        });
}

}  // namespace

std::string sparse_decode_level_4_declines(const SparseDecode& call) {
    if (call.R_kv != latent || call.d != width)
        return sentence("tokens must be of ", latent, " + ", width - latent, " columns; they are of ", call.R_kv,
                        " + ", call.d - call.R_kv);
    if (call.k > most_tiles * tokens * most_parts)
        return sentence("k must be at most ", most_tiles * tokens * most_parts, "; it is ", call.k);
    return {};
}

namespace {
struct Scratch {
    std::int32_t* kept;  // [rows, k]
    Parts parts;
    Scratch(const SparseDecode& call, const Plan& plan, Arena& arena)
        : kept(arena.take<std::int32_t>(call.rows * call.k)), parts(plan.parts(arena)) {}
};
}  // namespace

std::int64_t sparse_decode_workspace_4(const SparseDecode& call) {
    Arena arena;
    const Scratch scratch(call, Plan(call), arena);
    return arena.bytes();
}

void sparse_decode_level_4(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_4(call));
    const Plan plan(call);
    Arena arena(call.workspace);
    const Scratch scratch(call, plan, arena);
    keep_selected(call.indices, scratch.kept, call.rows, call.k, call.slots, call.stream);
    launch("sparse_decode_wgmma", attend,
           {.blocks = call.rows * plan.groups,
            .threads = threads,
            .shared_bytes = sizeof(Memory),
            .stream = call.stream,
            .blocks_y = plan.splits},
           call.q, call.kv_pages, scratch.kept, call.result, scratch.parts, plan);
    if (plan.splits > 1) add_parts(scratch.parts, call.result, call.rows, call.H, plan.splits, call.stream);
}

}  // namespace dsa
