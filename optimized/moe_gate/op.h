// Which experts a token visits: scores = sigmoid(x W_g) in float32; a group of experts is as good as its two best
// biased scores together (without a bias: as its best); the best experts of the best groups are chosen, equal ones by
// the lower number; each weighs its unbiased score over their sum, times route_scale. spec section 6.
//
// level 1  a thread an expert walks down its column of W_g, for one token
// level 2  a number of W_g serves 8 tokens, and D is split over blocks, whose parts are added in their order
// level 3  a float32 number as three bf16 numbers, whose products the tensor cores add
#pragma once

#include "optimized/support/call.h"

namespace dsa {

struct MoeGate {
    const bf16* x;    // [T, D]
    const void* W_g;  // [D, E], float32 or bf16
    bool W_g_is_bf16;
    const float* bias;      // [E]; null: the scores choose by themselves, and a group is as good as its best
    std::int32_t* experts;  // [T, active], best first
    float* expert_weights;  // [T, active]
    std::int64_t T, D, E;
    int groups, kept_groups, active;
    bool normalise;
    float route_scale, router_eps;
    void* workspace;  // begins with the scores, [T, E], once the gate has run
    std::int64_t workspace_bytes;
    Stream stream;
};

// Refuses sizes that do not fit together.
void require_gate(const MoeGate& call);
// The chosen level, for layers that hold such a call.
void moe_gate(const MoeGate& call);
std::int64_t moe_gate_workspace(const MoeGate& call);

void moe_gate_level_1(const MoeGate& call);
std::int64_t moe_gate_level_1_workspace(const MoeGate& call);
void moe_gate_level_2(const MoeGate& call);
std::int64_t moe_gate_level_2_workspace(const MoeGate& call);
void moe_gate_level_3(const MoeGate& call);
std::int64_t moe_gate_level_3_workspace(const MoeGate& call);
std::string moe_gate_level_3_declines(const MoeGate& call);

// For layers that choose the level of their parts: the fastest one for such sizes that is at most `level`.
void moe_gate_up_to(const MoeGate& call, int level);
std::int64_t moe_gate_up_to_workspace(const MoeGate& call, int level);

constexpr std::int64_t most_experts = 2048;  // whose scores lie in shared memory during the choice

// The choice, with which every level ends. sums: [splits, T, E], parts of x W_g; the first becomes the scores.
void choose_experts(const MoeGate& call, float* sums, int splits);

}  // namespace dsa
