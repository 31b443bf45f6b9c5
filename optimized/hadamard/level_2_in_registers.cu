// Level 2. A warp a head, n / 32 neighbouring numbers a lane: all rounds are in registers (in_registers.cuh).
#include "optimized/hadamard/in_registers.cuh"
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
    hadamard_in_registers(v);
#pragma unroll
    for (int i = 0; i < own; ++i) p.v[i] = to_bf16(v[i]);
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
