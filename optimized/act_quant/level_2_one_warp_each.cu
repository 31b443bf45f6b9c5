// Level 2. A warp holds a block of 128 numbers in registers, 4 a lane: read once, no barrier; 4 bytes of e4m3 a lane
// go out in one store.
#include "optimized/act_quant/op.h"
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"
#include "optimized/support/quantize.cuh"

namespace dsa {
namespace {

constexpr int warps = 8;
constexpr int own = 4;
constexpr int block = own * warp_size;

struct alignas(8) Numbers {
    bf16 v[own];
};
struct alignas(4) Bytes {
    e4m3 v[own];
};

__global__ void __launch_bounds__(warps* warp_size)
    act_quant_warp(const bf16* x, e4m3* q, float* scale_of, std::int64_t blocks, Quantizer quantizer, bool ue8m0) {
    const std::int64_t number = std::int64_t{blockIdx.x} * warps + warp_id();
    if (number >= blocks) return;
    const Numbers mine = reinterpret_cast<const Numbers*>(x + number * block)[lane_id()];
    float amax = 0.0F;
#pragma unroll
    for (int i = 0; i < own; ++i) amax = fmaxf(amax, fabsf(to_float(mine.v[i])));
    const float scale = block_scale(over_warp(amax, Largest()), quantizer, ue8m0);
    Bytes bytes;
#pragma unroll
    for (int i = 0; i < own; ++i) bytes.v[i] = to_e4m3(to_float(mine.v[i]) / scale);
    reinterpret_cast<Bytes*>(q + number * block)[lane_id()] = bytes;
    if (lane_id() == 0) scale_of[number] = scale;
}

}  // namespace

std::string act_quant_level_2_declines(const ActQuant& call) {
    if (call.block == block && call.x != nullptr && call.q != nullptr) return {};
    return sentence("x must be bfloat16, the quantiser not none, and the block ", block, "; the block is ",
                    call.block);
}

void act_quant_level_2(const ActQuant& call) {
    launch("act_quant_warp", act_quant_warp,
           {.blocks = blocks_for(call.blocks, warps), .threads = warps * warp_size, .stream = call.stream}, call.x,
           call.q, call.scale, call.blocks, call.quantizer, call.ue8m0);
}

}  // namespace dsa
