// A thread a column.
#include "optimized/column_sums/column_sums.h"
#include "optimized/hopper/device.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 128;

__global__ void __launch_bounds__(threads)
    column_sums(const float* parts, float* sums, std::int64_t pieces, std::int64_t D) {
    const std::int64_t d = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (d >= D) return;
    float sum = 0.0F;
    for (std::int64_t p = 0; p < pieces; ++p) sum += parts[p * D + d];
    sums[d] = sum;
}

}  // namespace

void add_pieces(const float* parts, float* sums, std::int64_t pieces, std::int64_t D, Stream stream) {
    launch("column_sums", column_sums, {.blocks = blocks_for(D, threads), .threads = threads, .stream = stream},
           parts, sums, pieces, D);
}

std::int64_t pieces_of_tokens(std::int64_t T, std::int64_t D) {
    constexpr std::int64_t enough_blocks = 4 * 132;  // four for each of an H100's multiprocessors
    constexpr std::int64_t fewest_tokens = 32;
    const std::int64_t across = blocks_for(D, threads);
    const std::int64_t wanted = blocks_for(enough_blocks, across > 0 ? across : 1);
    const std::int64_t most = blocks_for(T, fewest_tokens);
    return wanted < most ? wanted : most;
}

}  // namespace dsa
