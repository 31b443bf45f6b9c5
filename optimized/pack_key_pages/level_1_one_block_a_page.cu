// Level 1. Bound: bytes, 264 a key of 128. A page has a multiple of 64 bytes, so its scales lie at multiples of 4.
#include "optimized/hopper/numbers.h"
#include "optimized/pack_key_pages/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;
constexpr int page = 64;  // keys

__global__ void __launch_bounds__(threads)
    pack_key_page(const e4m3* k, const float* k_scale, std::uint8_t* pages, std::int64_t S, int D_I) {
    const std::int64_t first = blockIdx.x * std::int64_t{page};  // the page's first key
    std::uint8_t* bytes = pages + blockIdx.x * (std::int64_t{page} * D_I + page * sizeof(float));
    for (int i = threadIdx.x; i < page * D_I; i += threads)
        bytes[i] = first + i / D_I < S ? k[first * D_I + i].bits : std::uint8_t{0};
    auto* scales = reinterpret_cast<float*>(bytes + std::int64_t{page} * D_I);  // [64]
    for (int i = threadIdx.x; i < page; i += threads) scales[i] = first + i < S ? k_scale[first + i] : 0.0F;
}

}  // namespace

void pack_key_pages_level_1(const PackKeyPages& call) {
    launch("pack_key_page", pack_key_page, {.blocks = call.pages_count, .threads = threads, .stream = call.stream},
           call.k, call.k_scale, call.pages, call.S, call.D_I);
}

}  // namespace dsa
