// Level 2. x is read from memory once, in pieces of 8 numbers, 16 bytes a thread, and stays in registers until y is
// written: 4 bytes a number in all.
#include "optimized/hopper/numbers.h"
#include "optimized/rms_norm/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;
constexpr int piece = 8;        // numbers of 16 bytes
constexpr int most_pieces = 4;  // a thread: rows of up to 8192 numbers

struct Shared {
    float sums[32];
};

struct alignas(16) Piece {
    bf16 v[piece];
};

__global__ void __launch_bounds__(threads)
    rms_norm_registers(const bf16* x, const float* weight, bf16* y, std::int64_t D, float eps) {
    Shared& memory = shared<Shared>();
    const auto* row = reinterpret_cast<const Piece*>(x + blockIdx.x * D);  // [D / 8]
    const int pieces = static_cast<int>(D / piece);
    Piece mine[most_pieces];
    float square_sum = 0.0F;
#pragma unroll
    for (int j = 0; j < most_pieces; ++j) {
        const int at = j * threads + static_cast<int>(threadIdx.x);
        if (at >= pieces) continue;
        mine[j] = row[at];
#pragma unroll
        for (int i = 0; i < piece; ++i) square_sum += to_float(mine[j].v[i]) * to_float(mine[j].v[i]);
    }
    square_sum = over_block(square_sum, memory.sums, Sum());
    const float inverse_rms = rsqrtf(square_sum / static_cast<float>(D) + eps);
#pragma unroll
    for (int j = 0; j < most_pieces; ++j) {
        const int at = j * threads + static_cast<int>(threadIdx.x);
        if (at >= pieces) continue;
#pragma unroll
        for (int i = 0; i < piece; ++i)
            mine[j].v[i] = to_bf16(to_float(mine[j].v[i]) * inverse_rms * weight[at * piece + i]);
        reinterpret_cast<Piece*>(y + blockIdx.x * D)[at] = mine[j];
    }
}

}  // namespace

std::string rms_norm_level_2_declines(const RmsNorm& call) {
    constexpr int most = threads * piece * most_pieces;
    if (call.D % piece == 0 && call.D <= most) return {};
    return sentence("rows must be of a multiple of ", piece, " numbers and of at most ", most, "; D is ", call.D);
}

void rms_norm_level_2(const RmsNorm& call) {
    launch("rms_norm_registers", rms_norm_registers,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call.x,
           call.weight, call.y, call.D, call.eps);
}

}  // namespace dsa
