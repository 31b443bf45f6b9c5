// A thread a number, but for a token's choices, which a block makes.
#include "optimized/hopper/numbers.h"
#include "optimized/moe_backward/between.h"
#include "optimized/support/launch.h"
#include "optimized/support/sigmoid.cuh"

namespace dsa {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads) silu_times_backward(const bf16* gate, const bf16* up, const bf16* d_hidden,
                                                               bf16* d_gate, bf16* d_up, std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i >= count) return;
    const float g = to_float(gate[i]);
    const float s = sigmoid(g);
    const float d = to_float(d_hidden[i]);
    d_gate[i] = to_bf16(d * to_float(up[i]) * s * (1.0F + g * (1.0F - s)));
    d_up[i] = to_bf16(d * g * s);
}

struct Shared {
    float sums[32];
    float d_weights[most_experts];  // of a token's choices
};

// w_i = r s_i / sum s gives d_s_i = r (d_w_i - sum_j d_w_j s_j / sum s) / sum s, and d_logit = d_s s (1 - s).
__global__ void __launch_bounds__(threads)
    choices_of_token(MoeGate gate, const float* scores, const std::int32_t* visit_of, const bf16* dy, bf16* out,
                     float* d_logits) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const std::int32_t* visits = visit_of + t * gate.active;
    const std::int32_t* experts = gate.experts + t * gate.active;
    for (int i = 0; i < gate.active; ++i) {
        bf16* row = out + visits[i] * gate.D;  // [D]
        const float weight = gate.expert_weights[t * gate.active + i];
        float product = 0.0F;
        for (std::int64_t d = threadIdx.x; d < gate.D; d += threads) {
            const float dy_here = to_float(dy[t * gate.D + d]);
            product += dy_here * to_float(row[d]);
            row[d] = to_bf16(dy_here * weight);
        }
        product = over_block(product, memory.sums, Sum());
        if (threadIdx.x == 0) memory.d_weights[i] = product;
    }
    if (threadIdx.x != 0) return;
    float total = gate.router_eps;
    for (int i = 0; i < gate.active; ++i) total += scores[t * gate.E + experts[i]];
    float mean = 0.0F;
    for (int i = 0; i < gate.active; ++i) mean += memory.d_weights[i] * scores[t * gate.E + experts[i]] / total;
    for (int i = 0; i < gate.active; ++i) {
        const float s = scores[t * gate.E + experts[i]];
        const float d_w = memory.d_weights[i];
        const float d_s = gate.normalise ? gate.route_scale * (d_w - mean) / total : gate.route_scale * d_w;
        d_logits[visits[i]] = d_s * s * (1.0F - s);
    }
}

__global__ void __launch_bounds__(threads)
    gate_weights(const bf16* x, const std::int32_t* first_row, const std::int32_t* token_of, const float* d_logits,
                 float* dW_g, std::int64_t D, std::int64_t E) {
    const std::int64_t d = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    const std::int64_t e = blockIdx.y;
    if (d >= D) return;
    float sum = 0.0F;
    for (std::int32_t v = first_row[e]; v < first_row[e + 1]; ++v)
        sum += to_float(x[token_of[v] * D + d]) * d_logits[v];
    dW_g[d * E + e] = sum;
}

template <class Number>
__global__ void __launch_bounds__(threads)
    input_of_token(InputGradient parts, const Number* W_g, bf16* dx, std::int64_t D, std::int64_t E, int active) {
    const std::int64_t t = blockIdx.x;
    const std::int64_t d = std::int64_t{blockIdx.y} * threads + threadIdx.x;
    if (d >= D) return;
    float sum = parts.shared_gate[t * D + d] + parts.shared_up[t * D + d];
    for (int i = 0; i < active; ++i) {
        const std::int64_t v = parts.visit_of[t * active + i];
        // The gradient of a visiting row is stored, as the row itself is.
        sum += through_bf16(parts.from_gate[v * D + d] + parts.from_up[v * D + d]);
        sum += parts.d_logits[v] * to_float(W_g[d * E + parts.experts[t * active + i]]);
    }
    dx[t * D + d] = to_bf16(sum);
}

template <class Number>
void start_input_gradient(const MoeBackward& call, const InputGradient& parts) {
    launch("moe_input_gradient", input_of_token<Number>,
           {.blocks = call.T, .threads = threads, .stream = call.stream, .blocks_y = blocks_for(call.D, threads)},
           parts, static_cast<const Number*>(call.gate.W_g), call.dx, call.D, call.gate.E, call.gate.active);
}

}  // namespace

void silu_product_backward(const bf16* gate, const bf16* up, const bf16* d_hidden, bf16* d_gate, bf16* d_up,
                           std::int64_t count, Stream stream) {
    launch("silu_times_backward", silu_times_backward,
           {.blocks = blocks_for(count, threads), .threads = threads, .stream = stream}, gate, up, d_hidden, d_gate,
           d_up, count);
}

void choices_backward(const Choices& call) {
    launch("moe_choices_backward", choices_of_token,
           {.blocks = call.gate->T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.gate->stream},
           *call.gate, call.scores, call.visit_of, call.dy, call.out, call.d_logits);
}

void gate_weight_gradient(const MoeBackward& call, const std::int32_t* first_row, const std::int32_t* token_of,
                          const float* d_logits) {
    launch(
        "moe_gate_weight_gradient", gate_weights,
        {.blocks = blocks_for(call.D, threads), .threads = threads, .stream = call.stream, .blocks_y = call.gate.E},
        call.x, first_row, token_of, d_logits, call.dW_g, call.D, call.gate.E);
}

void input_gradient(const MoeBackward& call, const InputGradient& parts) {
    call.gate.W_g_is_bf16 ? start_input_gradient<bf16>(call, parts) : start_input_gradient<float>(call, parts);
}

}  // namespace dsa
