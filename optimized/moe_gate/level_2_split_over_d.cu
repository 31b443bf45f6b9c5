// Level 2. A block takes 128 experts, 8 tokens and a piece of D: a number of W_g is read once and multiplied 8 times,
// and a single token's 4 D E bytes come in through many blocks at once. The number of pieces follows from the sizes
// alone.
#include "optimized/hopper/numbers.h"
#include "optimized/moe_gate/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 128;  // experts
constexpr int tokens = 8;
constexpr int step = 64;                // numbers of D that are in shared memory at once
constexpr int enough_blocks = 2 * 132;  // two for each of an H100's multiprocessors

struct Shared {
    float x[tokens][step];
};

template <class Number>
__global__ void __launch_bounds__(threads)
    moe_gate_pieces(const bf16* x, const Number* W_g, float* sums, std::int64_t T, std::int64_t D, std::int64_t E,
                    std::int64_t piece) {
    Shared& memory = shared<Shared>();
    const std::int64_t e = blockIdx.y * threads + threadIdx.x;
    const std::int64_t t0 = std::int64_t{blockIdx.x} * tokens;
    const std::int64_t begin = blockIdx.z * piece;
    const std::int64_t end = begin + piece < D ? begin + piece : D;
    float sum[tokens] = {};
    for (std::int64_t d = begin; d < end; d += step) {
        for (int i = static_cast<int>(threadIdx.x); i < tokens * step; i += threads) {
            const std::int64_t t = t0 + i / step;
            const std::int64_t at = d + i % step;
            memory.x[i / step][i % step] = t < T && at < end ? to_float(x[t * D + at]) : 0.0F;
        }
        __syncthreads();
        const int here = static_cast<int>(end - d < step ? end - d : step);
        if (e < E)
            for (int i = 0; i < here; ++i) {
                const float w = to_float(W_g[(d + i) * E + e]);
#pragma unroll
                for (int j = 0; j < tokens; ++j) sum[j] += memory.x[j][i] * w;
            }
        __syncthreads();
    }
    if (e < E)
        for (int j = 0; j < tokens; ++j)
            if (t0 + j < T) sums[(blockIdx.z * T + t0 + j) * E + e] = sum[j];
}

// Pieces of D: so many that there are enough blocks, each of at least one step.
int pieces_of(const MoeGate& call) {
    const std::int64_t blocks = blocks_for(call.E, threads) * blocks_for(call.T, tokens);
    const std::int64_t wanted = blocks_for(enough_blocks, blocks > 0 ? blocks : 1);
    const std::int64_t most = blocks_for(call.D, step);
    return static_cast<int>(wanted < most ? wanted : most);
}

template <class Number>
void run(const MoeGate& call) {
    auto* sums = static_cast<float*>(call.workspace);  // [pieces, T, E]
    const int pieces = pieces_of(call);
    const std::int64_t piece = blocks_for(blocks_for(call.D, step), pieces) * step;
    launch("moe_gate_pieces", moe_gate_pieces<Number>,
           {.blocks = blocks_for(call.T, tokens),
            .threads = threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = blocks_for(call.E, threads),
            .blocks_z = pieces},
           call.x, static_cast<const Number*>(call.W_g), sums, call.T, call.D, call.E, piece);
    choose_experts(call, sums, pieces);
}

}  // namespace

std::int64_t moe_gate_level_2_workspace(const MoeGate& call) {
    return pieces_of(call) * call.T * call.E * static_cast<std::int64_t>(sizeof(float));
}

void moe_gate_level_2(const MoeGate& call) { call.W_g_is_bf16 ? run<bf16>(call) : run<float>(call); }

}  // namespace dsa
