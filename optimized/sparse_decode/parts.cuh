// How a call is split over blocks, and what each block leaves.
#pragma once

#include "optimized/attention/adding.cuh"
#include "optimized/sparse_decode/tiles.cuh"

namespace dsa::cached_tiles {

#if defined(DSA_SIMULATOR)
constexpr double multiprocessors = 4;  // small cases shall go round the ring of tiles
#else
constexpr double multiprocessors = 132;
#endif

// How many heads a block has, and into how many parts a selection is split: what a simple model of the time likes
// best. It follows from the sizes alone: the same bits on every device.
struct Plan {
    std::int64_t H, k, rows_of_q;
    int heads_each, groups, splits, tiles_each;

    explicit Plan(const SparseDecode& call) : H(call.H), k(call.k), rows_of_q(call.rows) {
        const auto tiles = static_cast<int>(std::max<std::int64_t>(1, blocks_for(call.k, tokens)));
        double best = 1e30;
        for (int heads = rows; heads >= 16; heads /= 2) {
            if (heads < rows && H <= heads) continue;
            for (int each = std::min(tiles, most_tiles); each >= 1; --each) {
                const int count = (tiles + each - 1) / each;
                if (count > most_parts) break;
                const double time = predicted(heads, count, each);
                if (time >= best) continue;
                best = time;
                heads_each = heads;
                groups = static_cast<int>(blocks_for(H, heads));
                splits = count;
                tiles_each = each;
            }
        }
    }

    // Microseconds on an H100: rounds of blocks, and the parts, which a block stores and another kernel reads. Fitted
    // to level 5 with 64 heads a block.
    double predicted(int heads, int count, int each) const {
        constexpr double a_block = 6.8, a_tile = 3.2, storing_and_adding = 5.3, bytes_a_us = 4e6;
        const double blocks = static_cast<double>(rows_of_q) * static_cast<double>(blocks_for(H, heads)) * count;
        const double time = std::ceil(blocks / multiprocessors) * (a_block + a_tile * each);
        if (count == 1) return time;
        const double parts = 2.0 * static_cast<double>(rows_of_q * H) * count * latent * 4;
        return time + storing_and_adding + parts / bytes_a_us;
    }

    Parts parts(Arena& arena) const { return {splits, rows_of_q * H, arena}; }

    __device__ Work work(int block, int split) const {
        Work work{};
        work.query = block / groups;
        work.first_head = block % groups * heads_each;
        work.heads = min(heads_each, static_cast<int>(H) - work.first_head);
        work.first_slot = split * tiles_each * tokens;
        work.slots = min(static_cast<int>(k) - work.first_slot, tiles_each * tokens);
        return work;
    }
};

struct alignas(8) Two {
    float at[2];
};

// One consumer, half the columns.
__device__ inline void leave_part(Memory& memory, const float (&out)[half_columns / 2], int half, const Work& work,
                                  const Plan& plan, const Parts& parts) {
    const std::int64_t first = work.query * plan.H + work.first_head, split = blockIdx.y;
    float* to = parts.out + (split * plan.rows_of_q * plan.H + first) * latent;
    store_rows<Two>(memory, out, half, work.heads, reinterpret_cast<char*>(to), latent * 4,
                    [](int, float low, float high) {
                        return Two{{low, high}};
                    });
    const int row = static_cast<int>(threadIdx.x) % warpgroup;
    if (half == 0 && row < work.heads) {
        parts.maximum[(first + row) * plan.splits + split] = memory.maximum[row];
        parts.sum[(first + row) * plan.splits + split] = memory.sum[row];
    }
}

__device__ inline void leave_result(Memory& memory, const float (&out)[half_columns / 2], int half, const Work& work,
                                    const Plan& plan, const AttentionResult& result) {
    const std::int64_t first = work.query * plan.H + work.first_head;
    bf16* to = result.out + first * latent;
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = wgmma_row(static_cast<int>(threadIdx.x), 2 * r);
        const float maximum = memory.maximum[row];
        factor[r] = 0.0F;
        if (row < work.heads && maximum != minus_infinity())
            factor[r] = 1.0F / denominator(result, work.first_head + row, maximum, memory.sum[row]);
    }
    store_rows<std::uint32_t>(memory, out, half, work.heads, reinterpret_cast<char*>(to), latent * 2,
                              [&](int row, float low, float high) {
                                  const float by = row % 16 < 8 ? factor[0] : factor[1];
                                  return in_plain_order(to_bf16_pair(low * by, high * by));
                              });
    const int row = static_cast<int>(threadIdx.x) % warpgroup;
    if (half == 0 && row < work.heads)
        result.lse[first + row] = told_lse(result, memory.maximum[row], memory.sum[row]);
}

// All that a block does. slots(i): the i-th slot of its part of the selection, -1 where it is none. count(): the
// second consumer says in memory.counts which of them count. blocks: that share what they convert, 1 or 2.
template <int blocks, class Slots, class Count>
__device__ void attend_part(Memory& memory, const bf16* q, const std::uint8_t* pages, const Work& work,
                            const Plan& plan, const AttentionResult& result, const Parts& parts, Slots slots,
                            Count count) {
    init_barriers<blocks>(memory);
    if constexpr (blocks == 1)
        __syncthreads();
    else
        cluster_sync();
    const int role = warp_id() / 4;
    if (role == 0) {
        give_back_registers<producer_registers>();
        const Reader<Slots> reader{memory, pages, work, slots};
        if constexpr (blocks == 1)
            Producer<Slots>{reader}.run();
        else
            SharingProducer<Slots>{reader}.run();
        if constexpr (blocks > 1) cluster_sync();
    } else {
        take_registers<consumer_registers>();
        float out[half_columns / 2];
        if (role == 1) {
            bring_q(memory, q, plan.H, work);
            score_and_weigh<blocks>(memory, out, work.tiles(), result.scale);
        } else {
            // Tokens of later tiles come to the L2 cache: what the producer has in its registers is too little for
            // the way from memory. Blocks of the same query ask for some of the tokens each.
            constexpr int ahead = 3;
            const int thread = static_cast<int>(threadIdx.x) % warpgroup;
            const bool asks = thread < tokens && thread % plan.groups == work.first_head / plan.heads_each;
            const auto slot_of = [&](int tile) {
                const int i = tile * tokens + thread;
                return asks && i < work.slots ? slots(i) : -1;
            };
            const auto ask_for = [&](std::int32_t slot) {
                if (slot >= 0) bulk_prefetch(pages + static_cast<std::int64_t>(slot) * token_bytes, token_bytes);
            };
            std::int32_t following[ahead + 1];
#pragma unroll
            for (int j = 0; j <= ahead; ++j) following[j] = slot_of(1 + j);
            count();
            tell_cluster<blocks>(memory.counts_known);
#pragma unroll
            for (int j = 0; j < ahead; ++j) ask_for(following[j]);
            weigh<blocks>(memory, out, work.tiles(), [&](int tile) {
                ask_for(following[ahead]);
                following[ahead] = slot_of(tile + 2 + ahead);
            });
        }
        // All that was sent has come, in both blocks, and nobody arrives at the other's barriers any more.
        if constexpr (blocks == 1)
            barrier_sync(of_consumers, 2 * warpgroup);
        else
            cluster_sync();
        if (plan.splits > 1)
            leave_part(memory, out, role - 1, work, plan, parts);
        else
            leave_result(memory, out, role - 1, work, plan, result);
    }
}

}  // namespace dsa::cached_tiles
