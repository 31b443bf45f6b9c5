// Level 1. Bound: bytes, 4 a number; the two transcendental functions are paid once for all heads of a token.
#include "optimized/hopper/numbers.h"
#include "optimized/rope/op.h"
#include "optimized/support/launch.h"
#include "optimized/support/rotary.cuh"

namespace dsa {
namespace {

constexpr int threads = 128;

__global__ void __launch_bounds__(threads)
    rope_pair(const bf16* x, const std::int32_t* positions, bf16* y, std::int64_t T, std::int64_t N,
              __grid_constant__ const RopeTable table, RopeLayout layout, RopeLayout output_layout) {
    const std::int64_t number = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    const std::int64_t t = number / table.pairs;
    const int i = static_cast<int>(number % table.pairs);
    if (t >= T) return;
    const Turn turn = turn_of(positions[t], table.frequency[i]);
    const int d_rope = 2 * table.pairs;
    for (std::int64_t n = 0; n < N; ++n) {
        const bf16* from = x + (t * N + n) * d_rope;  // [d_rope]
        bf16* to = y + (t * N + n) * d_rope;          // [d_rope]
        const float a = to_float(from[first_of(layout, i)]);
        const float b = to_float(from[second_of(layout, i, table.pairs)]);
        to[first_of(output_layout, i)] = to_bf16(a * turn.cosine - b * turn.sine);
        to[second_of(output_layout, i, table.pairs)] = to_bf16(a * turn.sine + b * turn.cosine);
    }
}

}  // namespace

void rope_level_1(const RotaryEmbedding& call) {
    launch("rope_pair", rope_pair,
           {.blocks = blocks_for(call.T * call.table.pairs, threads), .threads = threads, .stream = call.stream},
           call.x, call.positions, call.y, call.T, call.N, call.table, call.layout, call.output_layout);
}

}  // namespace dsa
