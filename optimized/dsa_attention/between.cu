// The small steps between the parts of the chain: nothing here is worth a level.
#include "optimized/dsa_attention/op.h"
#include "optimized/hopper/numbers.h"
#include "optimized/support/launch.h"
#include "optimized/support/quantize.cuh"

namespace dsa {
namespace {

constexpr int threads = 128;
constexpr int block = 128;  // numbers of a latent that share a scale

struct Shared {
    float sums[32];
};

// 16 bytes a thread where both ends allow it; the rest one by one.
__global__ void __launch_bounds__(threads)
    dsa_copy(const unsigned char* from, unsigned char* to, std::int64_t bytes, std::int64_t pieces) {
    struct alignas(16) Piece {
        unsigned char v[16];
    };
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i < pieces) reinterpret_cast<Piece*>(to)[i] = reinterpret_cast<const Piece*>(from)[i];
    const std::int64_t rest = pieces * 16 + i;
    if (rest < bytes) to[rest] = from[rest];
}

__global__ void __launch_bounds__(threads)
    dsa_cache_latents(const bf16* c_kv, const bf16* k_rope, bf16* kv, std::int64_t R_kv, std::int64_t d_rope,
                      bool through_e4m3, Quantizer quantizer, bool ue8m0) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    bf16* row = kv + t * (R_kv + d_rope);
    for (std::int64_t first = 0; first < R_kv; first += block) {
        const std::int64_t i = first + threadIdx.x;
        const float x = i < R_kv ? to_float(c_kv[t * R_kv + i]) : 0.0F;
        float y = x;
        if (through_e4m3) {
            const float amax = over_block(fabsf(x), memory.sums, Largest());
            const float scale = block_scale(amax, quantizer, ue8m0);
            y = to_float(to_e4m3(x / scale)) * scale;
        }
        if (i < R_kv) row[i] = to_bf16(y);
    }
    for (std::int64_t i = threadIdx.x; i < d_rope; i += threads) row[R_kv + i] = k_rope[t * d_rope + i];
}

__global__ void __launch_bounds__(threads) dsa_candidates(const std::int32_t* given, std::int32_t* start,
                                                          std::int32_t* end, std::int64_t T, std::int64_t C) {
    const std::int64_t t = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (t >= T) return;
    start[t] = given == nullptr ? 0 : given[t];
    end[t] = static_cast<std::int32_t>(C + t + 1);
}

__global__ void __launch_bounds__(threads)
    dsa_append_rope(const bf16* q_rope, bf16* q, std::int64_t count, std::int64_t R_kv, std::int64_t d_rope) {
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i >= count) return;
    q[i / d_rope * (R_kv + d_rope) + R_kv + i % d_rope] = q_rope[i];
}

}  // namespace

void copy_bytes(const void* from, void* to, std::int64_t bytes, Stream stream) {
    if (bytes == 0) return;
    const std::int64_t pieces = bytes / 16;
    // One thread a piece; the fewer than 16 bytes that are left need no more.
    launch("dsa_copy", dsa_copy, {.blocks = blocks_for(pieces + 1, threads), .threads = threads, .stream = stream},
           static_cast<const unsigned char*>(from), static_cast<unsigned char*>(to), bytes, pieces);
}

void cache_latents(const DsaAttention& call, const bf16* c_kv, const bf16* k_rope, bf16* kv) {
    launch("dsa_cache_latents", dsa_cache_latents,
           {.blocks = call.T, .threads = threads, .shared_bytes = sizeof(Shared), .stream = call.stream}, c_kv,
           k_rope, kv, call.mla.R_kv, call.mla.d_rope, call.latent_fp8 && call.kv_quantizer != Quantizer::none,
           call.kv_quantizer, call.ue8m0);
}

void causal_candidates(const DsaAttention& call, std::int32_t* start, std::int32_t* end) {
    launch("dsa_candidates", dsa_candidates,
           {.blocks = blocks_for(call.T, threads), .threads = threads, .stream = call.stream}, call.start, start, end,
           call.T, call.C);
}

void append_rope(const DsaAttention& call, const bf16* q_rope, bf16* q) {
    const std::int64_t count = call.T * call.mla.H * call.mla.d_rope;
    launch("dsa_append_rope", dsa_append_rope,
           {.blocks = blocks_for(count, threads), .threads = threads, .stream = call.stream}, q_rope, q, count,
           call.mla.R_kv, call.mla.d_rope);
}

}  // namespace dsa
