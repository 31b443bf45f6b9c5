#include "optimized/attention/selectors.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads) clear(std::uint32_t* words, std::int64_t count) {
    const std::int64_t stride = std::int64_t{gridDim.x} * threads;
    for (std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x; i < count; i += stride) words[i] = 0;
}

// Block (query). An or has one result, whoever comes first.
__global__ void __launch_bounds__(threads)
    mark(const std::int32_t* kept, std::uint32_t* bits, std::int64_t k, std::int64_t words) {
    const std::int64_t t = blockIdx.x;
    for (std::int64_t i = threadIdx.x; i < k; i += threads) {
        const std::int64_t s = kept[t * k + i];
        if (s >= 0) atomicOr(&bits[s * words + t / 32], std::uint32_t{1} << (t % 32));
    }
}

}  // namespace

void mark_selectors(const std::int32_t* kept, std::uint32_t* bits, std::int64_t T, std::int64_t k, std::int64_t S,
                    Stream stream) {
    const std::int64_t words = selector_words(T);
    constexpr std::int64_t most_blocks = 132 * 8;
    launch("clear_selectors", clear,
           {.blocks = std::min(most_blocks, blocks_for(S * words, threads)), .threads = threads, .stream = stream},
           bits, S * words);
    launch("mark_selectors", mark, {.blocks = k > 0 ? T : 0, .threads = threads, .stream = stream}, kept, bits, k,
           words);
}

}  // namespace dsa
