// Level 5. In level 4 one warpgroup has all of q k^T and all of the softmax, and the tensor cores wait for it. Here
// two warpgroups score in turn (in_turn.cuh), so that the softmax of one is beside the products of the other. Whoever
// scores also weighs, so that there is nobody who only waits.
#include "optimized/attention/selected.h"
#include "optimized/sparse_prefill/in_turn.cuh"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace latent_tile;

// An item's indices, and nothing past its last slot.
struct KeptIndices {
    const Work& work;
    const std::int32_t* row;  // [k]
    using Asked = std::int32_t;
    __device__ Asked ask(int item, int tile) {
        if (tile == 0) row = work.kept + std::int64_t{work.query(item)} * work.k;
        const int slot = tile * in_turn::tile_keys + warp_id() * in_turn::rows_each + lane_id();
        return lane_id() < in_turn::rows_each && slot < work.k ? row[slot] : -1;
    }
    __device__ std::int32_t answer(Asked index, int, unsigned) const { return index; }
};

__global__ void __launch_bounds__(in_turn::threads, 1)
    attend(Work work, const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap out) {
    auto& memory = shared<in_turn::Shared>();
    in_turn::prepare(memory);
    const int job = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warpgroup, 0);
    if (job == 0) {
        give_back_registers<in_turn::of_a_gatherer>();
        in_turn::gather(memory, work, in_turn::tiles_of(work), KeptIndices{work, nullptr});
    } else {
        take_registers<in_turn::of_a_scorer>();
        in_turn::score_and_weigh(memory, work, q, in_turn::WholeItems{work, out}, job - 1);
    }
}

}  // namespace

void sparse_prefill_level_5(const SparsePrefill& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_prefill_workspace_1(call));
    auto* kept = static_cast<std::int32_t*>(call.workspace);  // [T, k]
    keep_selected(call.indices, kept, call.T, call.k, call.S, call.stream);
    const Work work = work_of(call, kept);
    if (work.items == 0) return;
    launch("sparse_prefill_attend", attend,
           {.blocks = std::min(work.items, multiprocessors),
            .threads = in_turn::threads,
            .shared_bytes = sizeof(in_turn::Shared),
            .stream = call.stream},
           work, matrix_map("q", call.q, call.T * call.H, d, d, heads, panel_columns, wide),
           heads_map("out", call.result.out, call.T, call.H, in_turn::rows_of_a_warp));
}

}  // namespace dsa
