// The small steps between the parts of the chain. A step of one request is a matter of launches: what stands between
// projections and scores is one kernel, what stands between selection and attention another.
#include <algorithm>

#include "optimized/pack_kv_pages/token.cuh"
#include "optimized/serving/serving.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int threads = 128;
constexpr int warps = threads / warp_size;
constexpr std::int32_t nowhere = -1;

// Where the tokens of requests lie.
struct Slots {
    const std::int32_t* block_table;   // [B, P]
    const std::int32_t* context_lens;  // [B]
    std::int64_t s_q, pages, P;

    explicit Slots(const ServingStep& call)
        : block_table(call.block_table),
          context_lens(call.context_lens),
          s_q(call.s_q),
          pages(call.pages),
          P(call.P) {}

    // page x 64 + offset; nowhere for a token that no page is there for
    __device__ std::int32_t of(std::int64_t b, std::int64_t position) const {
        if (position < 0 || position >= P * page_of_tokens) return nowhere;
        const std::int64_t page = block_table[b * P + position / page_of_tokens];
        if (page < 0 || page >= pages) return nowhere;
        return static_cast<std::int32_t>(page * page_of_tokens + position % page_of_tokens);
    }
    __device__ std::int64_t position(std::int64_t t) const {
        return std::int64_t{context_lens[t / s_q]} - s_q + t % s_q;
    }
    // Behind the last candidate of query t, of a length that is cut as indexer_logits_paged cuts it.
    __device__ std::int32_t end(std::int64_t t) const {
        const std::int64_t length = min(std::int64_t{context_lens[t / s_q]}, P * page_of_tokens);
        return static_cast<std::int32_t>(max(std::int64_t{0}, length - s_q + t % s_q + 1));
    }
};

struct Sizes {
    int R_kv, d_rope, D_I, block;
    Quantizer quantizer;
    bool ue8m0;
};

// One block a new token: a warp a block of the latent, and two of them the rest.
__global__ void __launch_bounds__(threads)
    append_token(Slots slots, NewTokens tokens, Sizes sizes, std::uint8_t* kv_pages, std::uint8_t* k_pages,
                 std::int32_t* start, std::int32_t* end) {
    const std::int64_t t = blockIdx.x;
    if (threadIdx.x == 0) {
        start[t] = 0;
        end[t] = slots.end(t);
    }
    const std::int64_t slot = slots.of(t / slots.s_q, slots.position(t));
    if (slot == nowhere) return;

    const int blocks = sizes.R_kv / sizes.block;
    std::uint8_t* token = kv_pages + slot * (sizes.R_kv + 4 * blocks + 2 * sizes.d_rope);
    for (int b = warp_id(); b < blocks; b += warps)
        pack_latent_block(tokens.c_kv + t * sizes.R_kv + b * sizes.block, sizes.block, token + b * sizes.block,
                          token + sizes.R_kv + 4 * b, sizes.quantizer, sizes.ue8m0);
    if (warp_id() == 0) pack_rope(tokens.k_rope + t * sizes.d_rope, sizes.d_rope, token + sizes.R_kv + 4 * blocks);

    // A page of keys: 64 keys, and behind all of them their 64 scales.
    constexpr int scale_bytes = sizeof(float);
    std::uint8_t* page = k_pages + slot / page_of_tokens * page_of_tokens * (sizes.D_I + scale_bytes);
    const std::int64_t offset = slot % page_of_tokens;
    if (warp_id() == 1)
        for (int i = lane_id(); i < sizes.D_I; i += warp_size)
            page[offset * sizes.D_I + i] = tokens.k[t * sizes.D_I + i].bits;
    if (threadIdx.x == threads - 1)
        reinterpret_cast<float*>(page + page_of_tokens * sizes.D_I)[offset] = tokens.k_scale[t];
}

// One thread a selected position. What top_k marks a NaN with is below -1, and becomes no slot.
__global__ void __launch_bounds__(threads) find_slots(Slots slots, const std::int32_t* positions, std::int32_t* found,
                                                      std::int64_t count, std::int64_t topk) {
    const std::int64_t i = std::int64_t{blockIdx.x} * threads + threadIdx.x;
    if (i < count) found[i] = slots.of(i / topk / slots.s_q, positions[i]);
}

}  // namespace

void append_to_pages(const ServingStep& call, const NewTokens& tokens, std::int32_t* start, std::int32_t* end) {
    constexpr std::int64_t most_numbers = 128;  // that share a scale
    const DsaAttention& block = call.block;
    const Sizes sizes{static_cast<int>(block.mla.R_kv),
                      static_cast<int>(block.mla.d_rope),
                      static_cast<int>(block.indexer.D_I),
                      static_cast<int>(std::min(block.mla.R_kv, most_numbers)),
                      block.kv_quantizer,
                      block.ue8m0};
    launch("append_token", append_token, {.blocks = block.T, .threads = threads, .stream = call.stream}, Slots(call),
           tokens, sizes, call.kv_pages, call.k_pages, start, end);
}

void slots_of_positions(const ServingStep& call, const std::int32_t* positions, std::int32_t* slots) {
    const std::int64_t count = call.block.T * call.block.topk;
    launch("find_slots", find_slots,
           {.blocks = blocks_for(count, threads), .threads = threads, .stream = call.stream}, Slots(call), positions,
           slots, count, call.block.topk);
}

}  // namespace dsa
