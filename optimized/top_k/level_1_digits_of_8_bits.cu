// Level 1. Bound: bytes, 4 a score; the row is read 6 times, all but the first from L2 where it fits.
#include "optimized/support/launch.h"
#include "optimized/top_k/row.cuh"

namespace dsa {
namespace {

constexpr int threads = 256;
constexpr int digit_bits = 8;

struct Shared {
    SelectShared<digit_bits> select;
    std::int32_t first_nan;
};

__device__ std::int32_t first_nan_of(Shared& memory, const RowOfScores& row) {
    if (threadIdx.x == 0) memory.first_nan = no_position;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < row.count; i += threads)
        if (is_nan(row.scores[i])) atomicMin(&memory.first_nan, static_cast<std::int32_t>(row.begin + i));
    __syncthreads();
    return memory.first_nan;
}

__global__ void __launch_bounds__(threads) top_k_row(__grid_constant__ const TopK call) {
    Shared& memory = shared<Shared>();
    const RowOfScores row = row_of(call, blockIdx.x);
    std::int32_t* indices = call.indices + blockIdx.x * call.k;  // [k]
    const std::int32_t first_nan = call.nan_as_minus_infinity ? no_position : first_nan_of(memory, row);
    if (first_nan != no_position) return tell_nan(indices, call.k, first_nan);
    if (row.count <= call.k) return take_all(indices, call.k, row.begin, row.count);
    const Search kth = kth_best(memory.select, row, static_cast<std::uint32_t>(call.k));
    put_best(memory.select.sums, row, kth,
             [&](std::uint32_t slot, Candidate best) { indices[slot] = best.position; });
}

}  // namespace

void top_k_level_1(const TopK& call) {
    launch("top_k_row", top_k_row,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call);
}

}  // namespace dsa
