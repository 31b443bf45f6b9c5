// Level 3. A float32 number is the sum of three bf16 numbers, the next 8 bits of its mantissa each, and x is bf16
// already: so x W_g is three products on the tensor cores (linear, level 3), each number of which is exact; the
// choice adds the three, as it adds pieces of D at level 2. The tensor cores do 6 T D E operations at a rate that is
// ten times that of the float32 units.
#include "optimized/hopper/numbers.h"
#include "optimized/linear/linear.h"
#include "optimized/moe_gate/op.h"
#include "optimized/support/arena.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 256;
constexpr int parts = 3;

// What is cut off a float32 number after 8 bits of mantissa; the rest is exact.
__device__ bf16 upper_half(float x) { return {static_cast<std::uint16_t>(__float_as_uint(x) >> 16)}; }

__global__ void __launch_bounds__(threads) moe_gate_split(const float* W_g, bf16* split, std::int64_t count) {
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i >= count) return;
    float rest = W_g[i];
    const bool finite = fabsf(rest) < INFINITY;  // else the first part says it all
#pragma unroll
    for (int part = 0; part < parts; ++part) {
        const bf16 upper = finite || part > 0 ? upper_half(rest) : to_bf16(rest);
        split[part * count + i] = upper;
        rest = finite ? rest - to_float(upper) : 0.0F;
    }
}

struct Scratch {
    float* sums;  // [parts, T, E]
    bf16* split;  // [parts, D, E]
};

int parts_of(const MoeGate& call) { return call.W_g_is_bf16 ? 1 : parts; }

Scratch lay_out(Arena& arena, const MoeGate& call) {
    Scratch s{};
    s.sums = arena.take<float>(parts_of(call) * call.T * call.E);
    s.split = call.W_g_is_bf16 ? nullptr : arena.take<bf16>(parts * call.D * call.E);
    return s;
}

Linear products(const MoeGate& call, const Scratch& s) {
    const bf16* w = call.W_g_is_bf16 ? static_cast<const bf16*>(call.W_g) : s.split;
    Linear linear = packed_linear(call.x, w, nullptr, call.T, call.D, call.E, call.stream);
    linear.heads = parts_of(call);
    linear.w_head = call.D * call.E;
    linear.y_float32 = s.sums;
    linear.y_head = call.T * call.E;
    return linear;
}

}  // namespace

std::int64_t moe_gate_level_3_workspace(const MoeGate& call) {
    Arena arena;
    lay_out(arena, call);
    return arena.bytes();
}

std::string moe_gate_level_3_declines(const MoeGate& call) { return linear_level_3_declines(products(call, {})); }

void moe_gate_level_3(const MoeGate& call) {
    Arena arena(call.workspace);
    const Scratch s = lay_out(arena, call);
    if (s.split != nullptr)
        launch("moe_gate_split", moe_gate_split,
               {.blocks = blocks_for(call.D * call.E, threads), .threads = threads, .stream = call.stream},
               static_cast<const float*>(call.W_g), s.split, call.D * call.E);
    linear_level_3(products(call, s));
    choose_experts(call, s.sums, parts_of(call));
}

}  // namespace dsa
