// Level 1. Bound: W_g is read once a token, 4 D E bytes, from L2 after the first; a thread adds D products one by
// one.
#include "optimized/hopper/numbers.h"
#include "optimized/moe_gate/op.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 128;  // experts

template <class Number>
__global__ void __launch_bounds__(threads)
    moe_gate_columns(const bf16* x, const Number* W_g, float* sums, std::int64_t D, std::int64_t E) {
    const std::int64_t t = blockIdx.x;
    const std::int64_t e = blockIdx.y * threads + threadIdx.x;
    if (e >= E) return;
    float sum = 0.0F;
    for (std::int64_t i = 0; i < D; ++i) sum += to_float(x[t * D + i]) * to_float(W_g[i * E + e]);
    sums[t * E + e] = sum;
}

template <class Number>
void run(const MoeGate& call) {
    auto* sums = static_cast<float*>(call.workspace);  // [T, E]
    launch("moe_gate_columns", moe_gate_columns<Number>,
           {.blocks = call.T, .threads = threads, .stream = call.stream, .blocks_y = blocks_for(call.E, threads)},
           call.x, static_cast<const Number*>(call.W_g), sums, call.D, call.E);
    choose_experts(call, sums, 1);
}

}  // namespace

std::int64_t moe_gate_level_1_workspace(const MoeGate& call) {
    return call.T * call.E * static_cast<std::int64_t>(sizeof(float));
}

void moe_gate_level_1(const MoeGate& call) { call.W_g_is_bf16 ? run<bf16>(call) : run<float>(call); }

}  // namespace dsa
