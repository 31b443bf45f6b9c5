// Level 1. A vector lies in shared memory as float32 and goes through its stages there, rounded to bf16 after each as
// it would be when stored.
#include "optimized/indexer_project/vector.cuh"
#include "optimized/support/launch.h"
#include "optimized/support/quantize.cuh"
#include "optimized/support/rotary.cuh"

namespace dsa {
namespace {

constexpr int threads = 128;

struct Shared {
    float v[widest_indexer_vector];
    float largest[32];
};

__device__ void turn(float* v, const IndexerVectors& call, std::int32_t position) {
    const int pairs = call.rope.pairs;
    for (int i = static_cast<int>(threadIdx.x); i < pairs; i += threads) {
        const Turn by = turn_of(position, call.rope.frequency[i]);
        const int first = first_of(call.layout, i);
        const int second = second_of(call.layout, i, pairs);
        const float a = v[first];
        const float b = v[second];
        v[first] = through_bf16(a * by.cosine - b * by.sine);
        v[second] = through_bf16(a * by.sine + b * by.cosine);
    }
    __syncthreads();
}

__device__ void transform(float* v, int n) {
    for (int bit = 1; bit < n; bit *= 2) {
        for (int pair = static_cast<int>(threadIdx.x); pair < n / 2; pair += threads) {
            const int i = pair / bit * 2 * bit + pair % bit;  // the pair's place whose `bit` is 0
            const float a = v[i];
            const float b = v[i + bit];
            v[i] = a + b;
            v[i + bit] = a - b;
        }
        __syncthreads();
    }
    const float norm = 1.0F / sqrtf(static_cast<float>(n));
    for (int i = static_cast<int>(threadIdx.x); i < n; i += threads) v[i] = through_bf16(v[i] * norm);
    __syncthreads();
}

__global__ void __launch_bounds__(threads) indexer_vector_block(__grid_constant__ const IndexerVectors call) {
    Shared& memory = shared<Shared>();
    const std::int64_t at = blockIdx.x;
    const std::int64_t first = at * call.D_I;
    for (int i = static_cast<int>(threadIdx.x); i < call.D_I; i += threads) memory.v[i] = to_float(call.x[first + i]);
    __syncthreads();
    turn(memory.v, call, call.positions[at / call.N]);
    if (call.hadamard) transform(memory.v, call.D_I);
    float amax = 0.0F;
    for (int i = static_cast<int>(threadIdx.x); i < call.D_I; i += threads) amax = fmaxf(amax, fabsf(memory.v[i]));
    amax = over_block(amax, memory.largest, Largest());
    const float scale = block_scale(amax, call.quantizer, call.ue8m0);
    for (int i = static_cast<int>(threadIdx.x); i < call.D_I; i += threads) {
        if (call.y != nullptr)
            call.y[first + i] = to_e4m3(memory.v[i] / scale);
        else
            call.y_bf16[first + i] = to_bf16(memory.v[i]);
    }
    if (threadIdx.x == 0) keep_scale(call, at, scale);
}

}  // namespace

void indexer_vectors_level_1(const IndexerVectors& call) {
    launch("indexer_vector_block", indexer_vector_block,
           {.blocks = call.T * call.N, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream},
           call);
}

}  // namespace dsa
