// Level 2. A thread keeps a running maximum and the sum under it, and rescales the sum when the maximum grows: a row
// is read twice instead of three times, 16 bytes a thread at a time. (Milakov and Gimelshein, arXiv 1805.02867.)
#include "optimized/cross_entropy/losses.h"
#include "optimized/hopper/device.h"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 512;
constexpr int piece = 4;                    // numbers of 16 bytes
constexpr float lowest = -0x1.fffffep127F;  // finite, so that -inf gives 0 beside it

struct Shared {
    float sums[32];
};

struct alignas(16) Piece {
    float v[piece];
};

__global__ void __launch_bounds__(threads)
    cross_entropy_online(CrossEntropy call, const float* count, float* losses) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    const float* row = call.logits + t * call.V;                          // [V]
    const auto* logits = reinterpret_cast<const Piece*>(row);             // [V / 4]
    auto* dlogits = reinterpret_cast<Piece*>(call.dlogits + t * call.V);  // [V / 4]
    const auto pieces = static_cast<int>(call.V / piece);
    const std::int32_t target = call.targets[t];
    if (target < 0) {
        for (int at = static_cast<int>(threadIdx.x); at < pieces; at += threads) dlogits[at] = Piece{};
        if (threadIdx.x == 0) losses[t] = 0.0F;
        return;
    }
    float largest = lowest;
    float sum = 0.0F;
    for (int at = static_cast<int>(threadIdx.x); at < pieces; at += threads) {
        const Piece p = logits[at];
        float here = p.v[0];
#pragma unroll
        for (int i = 1; i < piece; ++i) here = here < p.v[i] ? p.v[i] : here;
        if (largest < here) {
            sum *= expf(largest - here);
            largest = here;
        }
#pragma unroll
        for (int i = 0; i < piece; ++i) sum += expf(p.v[i] - largest);
    }
    const float mine = largest;
    largest = over_block(largest, memory.sums, Largest());
    // expf(0) is 1: where the maximum stayed, the sum does too.
    sum = over_block(sum * expf(mine - largest), memory.sums, Sum());
    const float n = *count;
    for (int at = static_cast<int>(threadIdx.x); at < pieces; at += threads) {
        Piece p = logits[at];
#pragma unroll
        for (int i = 0; i < piece; ++i) {
            p.v[i] = expf(p.v[i] - largest) / (sum * n);
            if (at * piece + i == target) p.v[i] -= 1.0F / n;
        }
        dlogits[at] = p;
    }
    if (threadIdx.x == 0)
        losses[t] = target < call.V ? largest + logf(sum) - row[target] : __uint_as_float(0x7fffffffU);
}

}  // namespace

std::string cross_entropy_level_2_declines(const CrossEntropy& call) {
    if (call.V % piece != 0) return sentence("rows must be of a multiple of ", piece, " numbers; V is ", call.V);
    return {};
}

void cross_entropy_level_2(const CrossEntropy& call) {
    require_workspace(call.workspace, call.workspace_bytes, cross_entropy_workspace(call));
    Arena arena(call.workspace);
    const CrossEntropyScratch scratch(call, arena);
    count_tokens(call, scratch);
    launch("cross_entropy_online", cross_entropy_online,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call,
           scratch.count, scratch.losses);
    mean_loss(call, scratch);
}

}  // namespace dsa
