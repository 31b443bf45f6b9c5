// Level 1. Bound: bytes, 3 a number (2 read, 1 written).
#include "optimized/act_quant/op.h"
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"
#include "optimized/support/quantize.cuh"

namespace dsa {
namespace {

constexpr int threads = 128;

struct Shared {
    float largest[32];
};

__device__ float number(const ActQuant& call, std::int64_t i) {
    return call.x != nullptr ? to_float(call.x[i]) : call.x_float[i];
}

__global__ void __launch_bounds__(threads) act_quant_block(__grid_constant__ const ActQuant call) {
    Shared& memory = shared<Shared>();
    const std::int64_t first = blockIdx.x * std::int64_t{call.block};
    float amax = 0.0F;
    for (int i = threadIdx.x; i < call.block; i += threads) amax = fmaxf(amax, fabsf(number(call, first + i)));
    amax = over_block(amax, memory.largest, Largest());
    const float scale = block_scale(amax, call.quantizer, call.ue8m0);
    for (int i = threadIdx.x; i < call.block; i += threads) {
        const float v = number(call, first + i);
        if (call.q != nullptr)
            call.q[first + i] = to_e4m3(v / scale);
        else
            call.q_bf16[first + i] = to_bf16(v);
    }
    if (threadIdx.x == 0) call.scale[blockIdx.x] = scale;
}

}  // namespace

void act_quant_level_1(const ActQuant& call) {
    launch("act_quant_block", act_quant_block,
           {.blocks = call.blocks, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call);
}

}  // namespace dsa
