// What a feed-forward net does between its products.
#include "optimized/hopper/numbers.h"
#include "optimized/moe/feed_forward.h"
#include "optimized/support/launch.h"
#include "optimized/support/sigmoid.cuh"

namespace dsa {
namespace {

constexpr int threads = 256;

template <int own>
struct alignas(own * sizeof(bf16)) Piece {
    bf16 v[own];
};

// own: numbers of a thread, which come in one load
template <int own>
__global__ void __launch_bounds__(threads)
    silu_times(const bf16* gate, const bf16* up, bf16* hidden, std::int64_t count) {
    const std::int64_t i = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * own;
    if (i >= count) return;
    Piece<own> g = *reinterpret_cast<const Piece<own>*>(gate + i);
    const Piece<own> u = *reinterpret_cast<const Piece<own>*>(up + i);
#pragma unroll
    for (int n = 0; n < own; ++n) {
        const float x = to_float(g.v[n]);
        g.v[n] = to_bf16(x * sigmoid(x) * to_float(u.v[n]));
    }
    *reinterpret_cast<Piece<own>*>(hidden + i) = g;
}

template <int own>
void run(const bf16* gate, const bf16* up, bf16* hidden, std::int64_t count, Stream stream) {
    launch("silu_times", silu_times<own>,
           {.blocks = blocks_for(count, threads * own), .threads = threads, .stream = stream}, gate, up, hidden,
           count);
}

}  // namespace

// The three lie in workspaces, at multiples of 256 bytes.
void silu_product(const bf16* gate, const bf16* up, bf16* hidden, std::int64_t count, Stream stream) {
    count % 8 == 0 ? run<8>(gate, up, hidden, count, stream) : run<1>(gate, up, hidden, count, stream);
}

}  // namespace dsa
