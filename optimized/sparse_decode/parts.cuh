// How a call is split over blocks, what each block leaves, and how parts become the result.
#pragma once

#include "optimized/hopper/dependent.h"
#include "optimized/sparse_decode/tiles.cuh"
#include "optimized/support/arena.h"
#include "optimized/support/launch.h"

namespace dsa::cached_tiles {

// How many heads a block has, and into how many parts a selection is split: what a simple model of the time likes
// best. It follows from the sizes alone: the same bits on every device.
struct Plan {
    std::int64_t H, k, rows_of_q;
    int heads_each, groups, splits, tiles_each;

    static constexpr int most_splits = 128;  // a thread a part, when they are added

    explicit Plan(const SparseDecode& call) : H(call.H), k(call.k), rows_of_q(call.rows) {
        const auto tiles = static_cast<int>(std::max<std::int64_t>(1, blocks_for(call.k, tokens)));
        double best = 1e30;
        for (int heads = rows; heads >= 16; heads /= 2) {
            if (heads < rows && H <= heads) continue;
            for (int each = std::min(tiles, most_tiles); each >= 1; --each) {
                const int count = (tiles + each - 1) / each;
                if (count > most_splits) break;
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

    // Microseconds on an H100: rounds of blocks, and the parts, which a block stores and another kernel reads.
    double predicted(int heads, int count, int each) const {
        constexpr double multiprocessors = 132, a_block = 8.0, a_tile = 2.5, storing = 3.0, adding = 3.0;
        constexpr double bytes_a_us = 3e6;
        const double blocks = static_cast<double>(rows_of_q) * static_cast<double>(blocks_for(H, heads)) * count;
        const double time = std::ceil(blocks / multiprocessors) * (a_block + a_tile * each);
        if (count == 1) return time;
        const double parts = 2.0 * static_cast<double>(rows_of_q * H) * count * latent * 4;
        return time + storing * heads / rows + adding + parts / bytes_a_us;
    }

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

// All null where nothing is split.
struct Parts {
    // [splits, rows H, latent], under the part's own maximum, not divided; columns in the order 0 2 1 3 of each four
    float* out = nullptr;
    float* maximum = nullptr;  // [rows H, splits]
    float* sum = nullptr;      // [rows H, splits]

    Parts(const Plan& plan, Arena& arena) {
        if (plan.splits == 1) return;
        const std::int64_t all = plan.splits * plan.rows_of_q * plan.H;
        out = arena.take<float>(all * latent);
        maximum = arena.take<float>(all);
        sum = arena.take<float>(all);
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
            release<blocks>(memory.counts_known);
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

namespace adding {

constexpr int threads = latent / 4;  // of a group, four columns each
constexpr int most_groups = 4;

struct alignas(16) Four {
    float at[4];
};
struct Memory {
    float weight[Plan::most_splits];
    float fold[32];
    Four sums[most_groups][threads];
};

// Block: a row of q. Groups of threads have every groups-th part each, so that more parts are on their way at once;
// the order of the sums follows from how many there are. early: started before the parts are there.
template <bool early>
__global__ void __launch_bounds__(most_groups* threads)
    add(Parts parts, AttentionResult result, std::int64_t all_rows, std::int64_t H, int splits) {
    if (early) wait_for_previous_kernel();
    auto& memory = shared<Memory>();
    const std::int64_t row = blockIdx.x;
    const int thread = static_cast<int>(threadIdx.x), group = thread / threads;
    const int groups = static_cast<int>(blockDim.x) / threads;
    const float mine = thread < splits ? parts.maximum[row * splits + thread] : minus_infinity();
    const float part = thread < splits ? parts.sum[row * splits + thread] : 0.0F;
    float maximum = over_block(mine, memory.fold, Largest());
    const float weight = maximum == minus_infinity() ? 0.0F : rescaling(mine, maximum);
    const float sum = over_block(part * weight, memory.fold, Sum());
    if (sum != sum) maximum = sum;  // NaN is no maximum, and not nothing
    if (thread < splits) memory.weight[thread] = weight;
    __syncthreads();
    Four out{};
    const int column = 4 * (thread % threads);
    const float* from = parts.out + row * latent + column;
#pragma unroll 8
    for (int s = group; s < splits; s += groups) {
        const Four four = *reinterpret_cast<const Four*>(from + s * all_rows * latent);
#pragma unroll
        for (int j = 0; j < 4; ++j) out.at[j] += four.at[j] * memory.weight[s];
    }
    memory.sums[group][thread % threads] = out;
    __syncthreads();
    if (group > 0) return;
    for (int other = 1; other < groups; ++other)
#pragma unroll
        for (int j = 0; j < 4; ++j) out.at[j] += memory.sums[other][thread].at[j];
    const float by = maximum == minus_infinity() ? 0.0F : 1.0F / denominator(result, row % H, maximum, sum);
    auto* to = reinterpret_cast<std::uint32_t*>(result.out + row * latent + column);
    to[0] = to_bf16_pair(out.at[0] * by, out.at[2] * by);
    to[1] = to_bf16_pair(out.at[1] * by, out.at[3] * by);
    if (thread == 0) result.lse[row] = told_lse(result, maximum, sum);
}

}  // namespace adding

template <bool early = false>
void add_parts(const Parts& parts, const AttentionResult& result, const Plan& plan, std::int64_t rows_of_q,
               Stream stream) {
    launch("sparse_decode_add", adding::add<early>,
           {.blocks = rows_of_q * plan.H,
            .threads = adding::threads * std::min(plan.splits, adding::most_groups),
            .shared_bytes = sizeof(adding::Memory),
            .stream = stream,
            .overlaps_previous = early},
           parts, result, rows_of_q * plan.H, plan.H, plan.splits);
}

}  // namespace dsa::cached_tiles
