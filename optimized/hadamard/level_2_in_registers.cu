// Level 2. A lane holds n / 32 neighbouring numbers: the rounds of the low bits are within it, those of the five high
// bits are shuffles between lanes. No shared memory, no barrier.
#include "optimized/hadamard/op.h"
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int warps = 4;

// The transform of 32 x own numbers, `own` a lane.
template <int own>
__global__ void __launch_bounds__(warps* warp_size) hadamard_warp(const bf16* x, bf16* y, std::int64_t heads) {
    struct alignas(own * sizeof(bf16)) Piece {
        bf16 v[own];
    };
    constexpr int n = own * warp_size;
    const std::int64_t head = std::int64_t{blockIdx.x} * warps + warp_id();
    if (head >= heads) return;
    Piece p = reinterpret_cast<const Piece*>(x + head * n)[lane_id()];
    float v[own];
#pragma unroll
    for (int i = 0; i < own; ++i) v[i] = to_float(p.v[i]);
#pragma unroll
    for (int bit = 1; bit < own; bit *= 2)
#pragma unroll
        for (int i = 0; i < own; ++i)
            if ((i & bit) == 0) {
                const float a = v[i];
                v[i] = a + v[i + bit];
                v[i + bit] = a - v[i + bit];
            }
#pragma unroll
    for (int flip = 1; flip < warp_size; flip *= 2)
#pragma unroll
        for (int i = 0; i < own; ++i) {
            const float other = __shfl_xor_sync(all_lanes, v[i], flip);
            v[i] = (lane_id() & flip) == 0 ? v[i] + other : other - v[i];
        }
    const float norm = 1.0F / sqrtf(static_cast<float>(n));
#pragma unroll
    for (int i = 0; i < own; ++i) p.v[i] = to_bf16(v[i] * norm);
    reinterpret_cast<Piece*>(y + head * n)[lane_id()] = p;
}

}  // namespace

std::string hadamard_level_2_declines(const Hadamard& call) {
    if (call.n == 64 || call.n == 128 || call.n == 256) return {};
    return sentence("heads must be of 64, 128 or 256 numbers; they are of ", call.n);
}

void hadamard_level_2(const Hadamard& call) {
    const Launch how{.blocks = blocks_for(call.heads, warps), .threads = warps * warp_size, .stream = call.stream};
    if (call.n == 64) launch("hadamard_warp", hadamard_warp<2>, how, call.x, call.y, call.heads);
    if (call.n == 128) launch("hadamard_warp", hadamard_warp<4>, how, call.x, call.y, call.heads);
    if (call.n == 256) launch("hadamard_warp", hadamard_warp<8>, how, call.x, call.y, call.heads);
}

}  // namespace dsa
