// Level 6. Which slots count is decided by the warpgroup that gathers (selection.cuh), instead of by a kernel before
// this one: a row that ascends is read once more, and that is all.
#include "optimized/hopper/dependent.h"
#include "optimized/sparse_prefill/selection.cuh"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace latent_tile;

struct Shared {
    in_turn::Shared tiles;
    in_turn::Selection::InShared selection;
};

__global__ void __launch_bounds__(in_turn::threads, 1)
    attend(Work work, const std::int32_t* indices, std::int64_t S, const __grid_constant__ TensorMap q,
           const __grid_constant__ TensorMap out) {
    let_next_kernel_start();  // of level 9, say
    auto& memory = shared<Shared>();
    in_turn::prepare(memory.tiles);
    const int job = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warpgroup, 0);
    if (job == 0) {
        give_back_registers<in_turn::of_a_gatherer>();
        in_turn::gather(memory.tiles, work, in_turn::tiles_of(work),
                        in_turn::Selection(memory.tiles, memory.selection, work, indices, S));
    } else {
        take_registers<in_turn::of_a_scorer>();
        in_turn::score_and_weigh(memory.tiles, work, q, in_turn::WholeItems{work, out}, job - 1);
    }
}

}  // namespace

std::string sparse_prefill_level_6_declines(const SparsePrefill& call) {
    constexpr int most = in_turn::Selection::most;
    if (call.k > most) return sentence("a selection has at most ", most, " slots; here ", call.k);
    if (call.S > std::numeric_limits<std::int32_t>::max()) return sentence("S must be below 2^31; it is ", call.S);
    return declines_latents(call);
}

void sparse_prefill_level_6(const SparsePrefill& call) {
    const Work work = work_of(call, nullptr);
    if (work.items == 0) return;
    launch("sparse_prefill_attend", attend,
           {.blocks = std::min(work.items, multiprocessors),
            .threads = in_turn::threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream},
           work, call.indices, call.S, matrix_map("q", call.q, call.T * call.H, d, d, heads, panel_columns, wide),
           heads_map("out", call.result.out, call.T, call.H, in_turn::rows_of_a_warp));
}

}  // namespace dsa
