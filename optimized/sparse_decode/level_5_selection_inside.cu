// Level 5. Two launches fewer to wait for: which slots count is found by the consumers while the producer brings the
// first tokens, and the kernel that adds parts is started before they are there.
#include "optimized/hopper/dependent.h"
#include "optimized/sparse_decode/parts.cuh"
#include "optimized/sparse_decode/selection.cuh"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using namespace cached_tiles;

// Block (query, group of heads; part of the selection). indices: [rows, k].
__global__ void __launch_bounds__(threads, 1)
    attend(const bf16* q, const std::uint8_t* pages, const std::int32_t* indices, std::int64_t cache_slots,
           AttentionResult result, Parts parts, Plan plan) {
    let_next_kernel_start();
    auto& memory = shared<Memory>();
    const Work work = plan.work(static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y));
    const std::int32_t* row = indices + work.query * plan.k;
    const auto slots = [own = row + work.first_slot, cache_slots](int i) {
        const std::int32_t slot = own[i];
        return slot < cache_slots ? slot : -1;
    };
    attend_part<1>(memory, q, pages, work, plan, result, parts, slots,
                   [&] { Selection::find_counting(memory, work, row, cache_slots); });
}

}  // namespace

std::string sparse_decode_level_5_declines(const SparseDecode& call) {
    const std::string why = sparse_decode_level_4_declines(call);
    if (why.empty() && call.k > Selection::most)
        return sentence("k must be at most ", Selection::most, "; it is ", call.k);
    return why;
}

std::int64_t sparse_decode_workspace_5(const SparseDecode& call) {
    Arena arena;
    const Parts parts(Plan(call), arena);
    return arena.bytes();
}

void sparse_decode_level_5(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_5(call));
    const Plan plan(call);
    Arena arena(call.workspace);
    const Parts parts(plan, arena);
    launch("sparse_decode_selecting", attend,
           {.blocks = call.rows * plan.groups,
            .threads = threads,
            .shared_bytes = sizeof(Memory),
            .stream = call.stream,
            .blocks_y = plan.splits},
           call.q, call.kv_pages, call.indices, call.slots, call.result, parts, plan);
    if (plan.splits > 1) add_parts<true>(parts, call.result, plan, call.rows, call.stream);
}

}  // namespace dsa
