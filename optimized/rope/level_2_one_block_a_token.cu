// Level 2. The turns of a token are made once, by as many threads as it has pairs, and kept in shared memory; then
// each thread writes 8 neighbouring numbers, 16 bytes, at a time.
#include "optimized/hopper/numbers.h"
#include "optimized/rope/op.h"
#include "optimized/support/launch.h"
#include "optimized/support/rotary.cuh"

namespace dsa {
namespace {

constexpr int threads = 256;
constexpr int piece = 8;

struct Shared {
    Turn turns[RopeTable::most_pairs];
};

struct alignas(16) Piece {
    bf16 v[piece];
};

// Number c of a head, turned. from: [2 pairs]
__device__ float turned(const bf16* from, const Turn* turns, int c, int pairs, RopeLayout layout, RopeLayout output) {
    const bool is_first = output == RopeLayout::interleaved ? c % 2 == 0 : c < pairs;
    const int i = output == RopeLayout::interleaved ? c / 2 : is_first ? c : c - pairs;
    const float a = to_float(from[first_of(layout, i)]);
    const float b = to_float(from[second_of(layout, i, pairs)]);
    return is_first ? a * turns[i].cosine - b * turns[i].sine : a * turns[i].sine + b * turns[i].cosine;
}

__global__ void __launch_bounds__(threads)
    rope_token(const bf16* x, const std::int32_t* positions, bf16* y, std::int64_t N,
               __grid_constant__ const RopeTable table, RopeLayout layout, RopeLayout output_layout) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const int pairs = table.pairs;
    if (static_cast<int>(threadIdx.x) < pairs)
        memory.turns[threadIdx.x] = turn_of(positions[t], table.frequency[threadIdx.x]);
    __syncthreads();
    const int d_rope = 2 * pairs;
    const int pieces = d_rope / piece;  // of a head
    for (std::int64_t at = threadIdx.x; at < N * pieces; at += threads) {
        const bf16* from = x + (t * N + at / pieces) * d_rope;  // [d_rope]
        const int first = static_cast<int>(at % pieces) * piece;
        Piece p;
#pragma unroll
        for (int c = 0; c < piece; ++c)
            p.v[c] = to_bf16(turned(from, memory.turns, first + c, pairs, layout, output_layout));
        *reinterpret_cast<Piece*>(y + (t * N + at / pieces) * d_rope + first) = p;
    }
}

}  // namespace

std::string rope_level_2_declines(const RotaryEmbedding& call) {
    if (2 * call.table.pairs % piece == 0) return {};
    return sentence("the rotated size must be a multiple of ", piece, "; it is ", 2 * call.table.pairs);
}

void rope_level_2(const RotaryEmbedding& call) {
    launch("rope_token", rope_token,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call.x,
           call.positions, call.y, call.N, call.table, call.layout, call.output_layout);
}

}  // namespace dsa
