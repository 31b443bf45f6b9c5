// A warp chooses for one token: so often as experts are wanted, the best that is left, of equal ones the lower. What
// is taken becomes NaN, which is above nothing; a NaN among the scores ranks last.
#include <cmath>

#include "optimized/hopper/numbers.h"
#include "optimized/moe_gate/op.h"
#include "optimized/support/launch.h"
#include "optimized/support/sigmoid.cuh"

namespace dsa {
namespace {

constexpr double lowest = -INFINITY;

template <int most>  // experts: few leave room for many blocks on a multiprocessor
struct Shared {
    float scores[most];
    double biased[most];
    double groups[most];
};

struct Smallest {
    template <class T>
    __device__ T operator()(T a, T b) const {
        return b < a ? b : a;
    }
};

__device__ double ranked(double x) { return x == x ? x : lowest; }

// Takes the largest of keys[n], the lower of equal ones, out of them: its place, to all lanes.
__device__ int take_largest(double* keys, int n) {
    double best = lowest;
    int place = n;
    for (int i = lane_id(); i < n; i += warp_size)
        if (keys[i] == keys[i] && (place == n || keys[i] > best)) {
            best = keys[i];
            place = i;
        }
    const double best_of_all = over_warp(best, Largest());
    place = over_warp(best == best_of_all ? place : n, Smallest());
    __syncwarp();  // a shuffle brings lanes together, but orders no memory: all have read `keys`
    if (lane_id() == 0) keys[place] = NAN;
    __syncwarp();
    return place;
}

template <int most>
__global__ void __launch_bounds__(warp_size) moe_gate_choice(MoeGate call, float* sums, int splits) {
    auto& memory = shared<Shared<most>>();
    const std::int64_t t = blockIdx.x;
    const auto E = static_cast<int>(call.E);
    const int group_size = E / call.groups;
    for (int e = lane_id(); e < E; e += warp_size) {
        float sum = 0.0F;
        for (int s = 0; s < splits; ++s) sum += sums[(s * call.T + t) * E + e];
        const float score = sigmoid(sum);
        sums[t * E + e] = score;
        memory.scores[e] = score;
        memory.biased[e] = ranked(call.bias != nullptr ? score + call.bias[e] : score);
    }
    __syncwarp();
    for (int g = lane_id(); g < call.groups; g += warp_size) {
        double best = lowest;
        double second = lowest;
        for (int e = g * group_size; e < (g + 1) * group_size; ++e) {
            const double b = memory.biased[e];
            second = b > best ? best : b > second ? b : second;
            best = b > best ? b : best;
        }
        // In float64 the sum of two float32 numbers of one size is exact: no tie comes from rounding.
        memory.groups[g] = call.bias != nullptr && group_size > 1 ? best + second : best;
    }
    __syncwarp();
    for (int i = 0; i < call.kept_groups; ++i) take_largest(memory.groups, call.groups);
    for (int e = lane_id(); e < E; e += warp_size)
        if (memory.groups[e / group_size] == memory.groups[e / group_size]) memory.biased[e] = NAN;  // not kept
    __syncwarp();
    float total = call.router_eps;
    std::int32_t* chosen = call.experts + t * call.active;
    for (int i = 0; i < call.active; ++i) {
        const int e = take_largest(memory.biased, E);
        total += memory.scores[e];
        if (lane_id() == 0) chosen[i] = e;
    }
    __syncwarp();
    for (int i = lane_id(); i < call.active; i += warp_size) {
        const float score = memory.scores[chosen[i]];
        call.expert_weights[t * call.active + i] = (call.normalise ? score / total : score) * call.route_scale;
    }
}

template <int most>
void run(const MoeGate& call, float* sums, int splits) {
    launch("moe_gate_choice", moe_gate_choice<most>,
           {.blocks = call.T, .threads = warp_size, .shared_bytes = sizeof(Shared<most>), .stream = call.stream},
           call, sums, splits);
}

}  // namespace

void choose_experts(const MoeGate& call, float* sums, int splits) {
    constexpr int few = 256;
    call.E <= few ? run<few>(call, sums, splits) : run<most_experts>(call, sums, splits);
}

}  // namespace dsa
