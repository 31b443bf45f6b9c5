// Level 1. n log2(n) sums and differences instead of the n^2 products of the matrix: in round r, numbers whose index
// differs in bit r become their sum and their difference.
#include "optimized/hadamard/op.h"
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 64;

struct Shared {
    float v[largest_hadamard];
};

__global__ void __launch_bounds__(threads) hadamard_head(const bf16* x, bf16* y, int n) {
    Shared& memory = shared<Shared>();
    const std::int64_t head = blockIdx.x;
    for (int i = threadIdx.x; i < n; i += threads) memory.v[i] = to_float(x[head * n + i]);
    __syncthreads();
    for (int bit = 1; bit < n; bit *= 2) {
        for (int pair = threadIdx.x; pair < n / 2; pair += threads) {
            const int low = pair / bit * 2 * bit + pair % bit;
            const float a = memory.v[low];
            const float b = memory.v[low + bit];
            memory.v[low] = a + b;
            memory.v[low + bit] = a - b;
        }
        __syncthreads();
    }
    const float norm = 1.0F / sqrtf(static_cast<float>(n));
    for (int i = threadIdx.x; i < n; i += threads) y[head * n + i] = to_bf16(memory.v[i] * norm);
}

}  // namespace

void hadamard_level_1(const Hadamard& call) {
    launch("hadamard_head", hadamard_head,
           {.blocks = call.heads, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, call.x,
           call.y, call.n);
}

}  // namespace dsa
