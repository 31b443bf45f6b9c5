// Levels 5 and 6: a launch of blocks that find themselves which slots count, and of the kernel that adds parts.
#pragma once

#include "optimized/attention/distinct.cuh"
#include "optimized/hopper/dependent.h"
#include "optimized/sparse_decode/parts.cuh"
#include "optimized/support/ladder.h"

namespace dsa::cached_tiles {

constexpr int most_slots = 2048;                             // up to a part's end
using Selection = DistinctSlots<warpgroup, most_slots, 12>;  // the second consumer

// Block (query, group of heads; part of the selection). indices: [rows, k]. blocks: of a cluster.
template <int blocks>
__global__ void __launch_bounds__(threads, 1)
    attend_selecting(const bf16* q, const std::uint8_t* pages, const std::int32_t* indices, std::int64_t cache_slots,
                     AttentionResult result, Parts parts, Plan plan) {
    let_next_kernel_start();
    auto& memory = shared<Memory>();
    const Work work = plan.work(static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y));
    const std::int32_t* row = indices + work.query * plan.k;
    const auto slots = [own = row + work.first_slot, cache_slots](int i) {
        const std::int32_t slot = own[i];
        return slot < cache_slots ? slot : -1;
    };
    // Its answer is needed when the first tile has been scored; half of the second tile comes later.
    auto& table = *reinterpret_cast<Selection::Table*>(memory.keys[1].panel[half_panels]);
    static_assert(sizeof table <= half_panels * panel_bytes);
    attend_part<blocks>(memory, q, pages, work, plan, result, parts, slots, [&] {
        Selection::find_counting(table, row, work.first_slot + work.slots, cache_slots,
                                 static_cast<int>(threadIdx.x) % warpgroup, of_the_second,
                                 [&](int i, std::uint32_t counts) {
                                     i -= work.first_slot;
                                     if (i >= 0 && i < work.tiles() * tokens) memory.counts[i / 32] = counts;
                                 });
    });
}

inline std::int64_t selecting_workspace(const SparseDecode& call) {
    Arena arena;
    Plan(call).parts(arena);
    return arena.bytes();
}

template <int blocks>
void start_selecting(const char* name, const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, selecting_workspace(call));
    const Plan plan(call);
    Arena arena(call.workspace);
    const Parts parts = plan.parts(arena);
    launch(name, attend_selecting<blocks>,
           {.blocks = call.rows * plan.groups,
            .threads = threads,
            .shared_bytes = sizeof(Memory),
            .stream = call.stream,
            .blocks_y = plan.splits,
            .cluster = blocks},
           call.q, call.kv_pages, call.indices, call.slots, call.result, parts, plan);
    if (plan.splits > 1) add_parts<true>(parts, call.result, call.rows, call.H, plan.splits, call.stream);
}

}  // namespace dsa::cached_tiles
