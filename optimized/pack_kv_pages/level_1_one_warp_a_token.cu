// Level 1. Bound: bytes: of a V3.2 token 1152 read and 656 written.
#include "optimized/pack_kv_pages/op.h"
#include "optimized/pack_kv_pages/token.cuh"
#include "optimized/support/launch.h"

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
    for (int b = 0; b < blocks; ++b)
        pack_latent_block(row + b * block, block, token + b * block, token + call.R_kv + 4 * b, call.quantizer,
                          call.ue8m0);
    pack_rope(row + call.R_kv, call.d - call.R_kv, token + call.R_kv + 4 * blocks);
}

}  // namespace

void pack_kv_pages_level_1(const PackKvPages& call) {
    launch("pack_kv_token", pack_kv_token,
           {.blocks = blocks_for(call.slots, warps), .threads = warps * warp_size, .stream = call.stream}, call,
           call.block(), call.blocks(), call.token_bytes());
}

}  // namespace dsa
