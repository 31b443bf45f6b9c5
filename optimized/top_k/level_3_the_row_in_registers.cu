// Level 3. A row is read once and stays in the registers of its block, 16 or 32 scores a thread: what was reading it
// again is counting again. Bound: bytes, 4 a score.
#include "optimized/support/launch.h"
#include "optimized/top_k/in_registers.cuh"

namespace dsa {
namespace {

template <int pieces>
__global__ void __launch_bounds__(holding_threads, pieces < most_pieces ? 3 : 2)
    top_k_in_registers(__grid_constant__ const TopK call) {
    select_held<pieces>(call, blockIdx.x, Alone{});
}

template <int pieces>
void start(const TopK& call) {
    launch("top_k_in_registers", top_k_in_registers<pieces>,
           {.blocks = call.T,
            .threads = holding_threads,
            .shared_bytes = sizeof(HoldingShared<Alone::most>),
            .stream = call.stream},
           call);
}

}  // namespace

std::string top_k_level_3_declines(const TopK& call) {
    const std::int64_t most = scores_held(most_pieces);
    if (fits_held(call.S, most)) return "";
    return sentence("a block holds rows of up to ", most, " scores; these have ", call.S);
}

void top_k_level_3(const TopK& call) {
    if (fits_held(call.S, scores_held(4)))
        start<4>(call);
    else
        start<8>(call);
}

}  // namespace dsa
