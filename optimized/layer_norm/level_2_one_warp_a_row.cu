// Level 2. An indexer key has 128 numbers: 4 a lane, 8 bytes. A warp needs no barrier, and reads its row once.
#include "optimized/hopper/numbers.h"
#include "optimized/layer_norm/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int warps = 4;
constexpr int piece = 4;  // numbers a lane takes at a time
constexpr int most_pieces = 8;

struct alignas(8) Piece {
    bf16 v[piece];
};

__global__ void __launch_bounds__(warps* warp_size)
    layer_norm_warp(const bf16* x, const float* weight, const float* bias, bf16* y, std::int64_t T, int D,
                    float eps) {
    const std::int64_t t = std::int64_t{blockIdx.x} * warps + warp_id();
    if (t >= T) return;
    const auto* row = reinterpret_cast<const Piece*>(x + t * D);  // [D / 4]
    const int pieces = D / piece;
    float mine[most_pieces][piece];
    float sum = 0.0F;
#pragma unroll
    for (int j = 0; j < most_pieces; ++j) {
        const int at = j * warp_size + lane_id();
        const Piece p = at < pieces ? row[at] : Piece{};
#pragma unroll
        for (int i = 0; i < piece; ++i) {
            mine[j][i] = to_float(p.v[i]);
            sum += mine[j][i];
        }
    }
    const float mean = over_warp(sum, Sum()) / static_cast<float>(D);
    float square_sum = 0.0F;
#pragma unroll
    for (int j = 0; j < most_pieces; ++j)
#pragma unroll
        for (int i = 0; i < piece; ++i) {
            mine[j][i] -= mean;
            if (j * warp_size + lane_id() < pieces) square_sum += mine[j][i] * mine[j][i];
        }
    const float inverse_deviation = rsqrtf(over_warp(square_sum, Sum()) / static_cast<float>(D) + eps);
#pragma unroll
    for (int j = 0; j < most_pieces; ++j) {
        const int at = j * warp_size + lane_id();
        if (at >= pieces) continue;
        Piece p;
#pragma unroll
        for (int i = 0; i < piece; ++i)
            p.v[i] = to_bf16(mine[j][i] * inverse_deviation * weight[at * piece + i] + bias[at * piece + i]);
        reinterpret_cast<Piece*>(y + t * D)[at] = p;
    }
}

}  // namespace

std::string layer_norm_level_2_declines(const LayerNorm& call) {
    constexpr int most = piece * most_pieces * warp_size;
    if (call.D % piece == 0 && call.D <= most) return {};
    return sentence("rows must be of a multiple of ", piece, " numbers and of at most ", most, "; D is ", call.D);
}

void layer_norm_level_2(const LayerNorm& call) {
    launch("layer_norm_warp", layer_norm_warp,
           {.blocks = blocks_for(call.T, warps), .threads = warps * warp_size, .stream = call.stream}, call.x,
           call.weight, call.bias, call.y, call.T, static_cast<int>(call.D), call.eps);
}

}  // namespace dsa
