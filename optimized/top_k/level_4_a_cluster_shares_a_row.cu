// Level 4. The blocks of a cluster hold a row together: a long one fits, and a single one keeps several
// multiprocessors busy. They read each other's counts through distributed shared memory.
#include "optimized/support/launch.h"
#include "optimized/top_k/in_registers.cuh"

namespace dsa {
namespace {

constexpr int most_blocks = Together::most;

template <int pieces>
__global__ void __launch_bounds__(holding_threads, pieces < most_pieces ? 3 : 2)
    top_k_shared_row(__grid_constant__ const TopK call) {
    select_held<pieces>(call, blockIdx.x / cluster_size(), Together{});
}

template <int pieces>
void start(const TopK& call, int blocks) {
    launch("top_k_shared_row", top_k_shared_row<pieces>,
           {.blocks = call.T * blocks,
            .threads = holding_threads,
            .shared_bytes = sizeof(HoldingShared<Together::most>),
            .stream = call.stream,
            .cluster = blocks},
           call);
}

}  // namespace

std::string top_k_level_4_declines(const TopK& call) {
    const std::int64_t most = most_blocks * scores_held(most_pieces);
    if (fits_held(call.S, most)) return "";
    return sentence("a cluster holds rows of up to ", most, " scores; these have ", call.S);
}

void top_k_level_4(const TopK& call) {
    int blocks = 2;
    while (!fits_held(call.S, blocks * scores_held(most_pieces))) blocks *= 2;
    // A few rows take twice as many with half the scores, as long as each block has a multiprocessor of its own.
    constexpr std::int64_t at_once = 132;
    if (call.T * blocks * 2 <= at_once && blocks < most_blocks && !fits_held(call.S, blocks * scores_held(4)))
        blocks *= 2;
    if (fits_held(call.S, blocks * scores_held(4)))
        start<4>(call, blocks);
    else
        start<8>(call, blocks);
}

}  // namespace dsa
