// Level 2. A block takes a token, whose turns it makes once; each of its warps takes a vector after the other, D_I /
// 32 neighbouring numbers a lane: a turn's two numbers, a round of the transform and the largest magnitude are
// shuffles.
#include "optimized/hadamard/in_registers.cuh"
#include "optimized/indexer_project/vector.cuh"
#include "optimized/support/launch.h"
#include "optimized/support/quantize.cuh"
#include "optimized/support/rotary.cuh"

namespace dsa {
namespace {

constexpr int most_warps = 8;

struct Shared {
    Turn turns[RopeTable::most_pairs];
};

// Number c = lane own + i of the first 2 pairs is turned; all lanes come, since some bring the other number of a
// pair.
template <int own>
__device__ void turn(float (&v)[own], const Turn* turns, int pairs, RopeLayout layout) {
    const int first = lane_id() * own;
    if (layout == RopeLayout::half_split) {
        const bool is_first = first < pairs;  // pairs is a multiple of own: a lane's numbers are of one kind
        const int partner = is_first ? lane_id() + pairs / own : lane_id() - pairs / own;
        const bool turns_here = first < 2 * pairs;
#pragma unroll
        for (int i = 0; i < own; ++i) {
            const float other = __shfl_sync(all_lanes, v[i], turns_here ? partner : lane_id());
            if (!turns_here) continue;
            const Turn by = turns[is_first ? first + i : first + i - pairs];
            v[i] = through_bf16(is_first ? v[i] * by.cosine - other * by.sine : other * by.sine + v[i] * by.cosine);
        }
    } else {
#pragma unroll
        for (int i = 0; i < own; i += 2) {
            if (first + i >= 2 * pairs) continue;
            const Turn by = turns[(first + i) / 2];
            const float a = v[i];
            const float b = v[i + 1];
            v[i] = through_bf16(a * by.cosine - b * by.sine);
            v[i + 1] = through_bf16(a * by.sine + b * by.cosine);
        }
    }
}

template <int own>
__global__ void __launch_bounds__(most_warps* warp_size)
    indexer_vector_warp(__grid_constant__ const IndexerVectors call) {
    struct alignas(own * sizeof(bf16)) Numbers {
        bf16 v[own];
    };
    struct alignas(own) Bytes {
        e4m3 v[own];
    };
    constexpr int D_I = own * warp_size;
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    if (static_cast<int>(threadIdx.x) < call.rope.pairs)
        memory.turns[threadIdx.x] = turn_of(call.positions[t], call.rope.frequency[threadIdx.x]);
    __syncthreads();
    const int warps = static_cast<int>(blockDim.x) / warp_size;
    for (std::int64_t at = t * call.N + warp_id(); at < (t + 1) * call.N; at += warps) {
        const Numbers in = reinterpret_cast<const Numbers*>(call.x + at * D_I)[lane_id()];
        float v[own];
        float amax = 0.0F;
#pragma unroll
        for (int i = 0; i < own; ++i) v[i] = to_float(in.v[i]);
        turn(v, memory.turns, call.rope.pairs, call.layout);
        if (call.hadamard) {
            hadamard_in_registers(v);
#pragma unroll
            for (int i = 0; i < own; ++i) v[i] = through_bf16(v[i]);
        }
#pragma unroll
        for (int i = 0; i < own; ++i) amax = fmaxf(amax, fabsf(v[i]));
        const float scale = block_scale(over_warp(amax, Largest()), call.quantizer, call.ue8m0);
        if (call.y != nullptr) {
            Bytes out;
#pragma unroll
            for (int i = 0; i < own; ++i) out.v[i] = to_e4m3(v[i] / scale);
            reinterpret_cast<Bytes*>(call.y + at * D_I)[lane_id()] = out;
        } else {
            Numbers out;
#pragma unroll
            for (int i = 0; i < own; ++i) out.v[i] = to_bf16(v[i]);
            reinterpret_cast<Numbers*>(call.y_bf16 + at * D_I)[lane_id()] = out;
        }
        if (lane_id() == 0) keep_scale(call, at, scale);
    }
}

}  // namespace

std::string indexer_vectors_level_2_declines(const IndexerVectors& call) {
    if (call.D_I != 64 && call.D_I != 128) return sentence("vectors must be of 64 or 128 numbers; D_I is ", call.D_I);
    const int own = call.D_I / warp_size;
    if (call.rope.pairs % own != 0)
        return sentence("the rotated size must be a multiple of ", 2 * own, "; it is ", 2 * call.rope.pairs);
    return {};
}

void indexer_vectors_level_2(const IndexerVectors& call) {
    // As many warps as there are vectors, and enough for the turns.
    const std::int64_t warps = min(std::int64_t{most_warps}, max(call.N, std::int64_t{2}));
    const Launch how{.blocks = call.T,
                     .threads = static_cast<int>(warps) * warp_size,
                     .shared_bytes = sizeof(Shared),
                     .stream = call.stream};
    if (call.D_I == 64) launch("indexer_vector_warp", indexer_vector_warp<2>, how, call);
    if (call.D_I == 128) launch("indexer_vector_warp", indexer_vector_warp<4>, how, call);
}

}  // namespace dsa
