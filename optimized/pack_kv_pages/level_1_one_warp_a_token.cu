// Level 1. Bound: bytes: of a V3.2 token 1152 read and 656 written. A token's bytes need not begin at a multiple of 4
// in tiny models, so numbers of several bytes are written byte by byte.
#include "optimized/hopper/numbers.h"
#include "optimized/pack_kv_pages/op.h"
#include "optimized/support/launch.h"
#include "optimized/support/quantize.cuh"

namespace dsa {
namespace {

constexpr int warps = 4;

__global__ void __launch_bounds__(warps* warp_size)
    pack_kv_token(__grid_constant__ const PackKvPages call, int block, int blocks, int token_bytes) {
    const std::int64_t slot = std::int64_t{blockIdx.x} * warps + warp_id();
    if (slot >= call.slots) return;
    std::uint8_t* token = call.pages + slot * token_bytes;  // [token_bytes]
    if (slot >= call.S) {
        for (int i = lane_id(); i < token_bytes; i += warp_size) token[i] = 0;
        return;
    }
    const bf16* row = call.kv + slot * call.d;  // [d]
    for (int b = 0; b < blocks; ++b) {
        float amax = 0.0F;
        for (int i = lane_id(); i < block; i += warp_size) amax = fmaxf(amax, fabsf(to_float(row[b * block + i])));
        const float scale = block_scale(over_warp(amax, Largest()), call.quantizer, call.ue8m0);
        for (int i = lane_id(); i < block; i += warp_size)
            token[b * block + i] = to_e4m3(to_float(row[b * block + i]) / scale).bits;
        const std::uint32_t bits = __float_as_uint(scale);
        if (lane_id() < 4) token[call.R_kv + 4 * b + lane_id()] = static_cast<std::uint8_t>(bits >> (8 * lane_id()));
    }
    std::uint8_t* rope = token + call.R_kv + 4 * blocks;  // [2 d_rope]
    for (int i = lane_id(); i < call.d - call.R_kv; i += warp_size) {
        const std::uint16_t bits = row[call.R_kv + i].bits;
        rope[2 * i] = static_cast<std::uint8_t>(bits);
        rope[2 * i + 1] = static_cast<std::uint8_t>(bits >> 8);
    }
}

}  // namespace

void pack_kv_pages_level_1(const PackKvPages& call) {
    launch("pack_kv_token", pack_kv_token,
           {.blocks = blocks_for(call.slots, warps), .threads = warps * warp_size, .stream = call.stream}, call,
           call.block(), call.blocks(), call.token_bytes());
}

}  // namespace dsa
