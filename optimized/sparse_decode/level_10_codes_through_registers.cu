// Level 10. Levels 4 to 8 make a tile of bf16 in shared memory, and two blocks send each other half of it. Here codes
// go through registers into the tensor cores (code_tiles.cuh): tokens are the rows of k q^T, columns those of v^T
// p^T, 8 to 64 heads the columns of both. Nothing is sent from block to block; two that have the heads of a query
// read its tokens each. Only where a query is cut in two parts, these are a cluster, which adds them.
#include "optimized/attention/adding.cuh"
#include "optimized/hopper/bulk.h"
#include "optimized/hopper/cluster.h"
#include "optimized/hopper/dependent.h"
#include "optimized/sparse_decode/op.h"
#include "optimized/sparse_decode/query_panels.cuh"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using namespace code_tiles;

#if defined(DSA_SIMULATOR)
constexpr double multiprocessors = 4;  // small cases shall go round the ring of tiles
#else
constexpr double multiprocessors = 132;
#endif

// So many parts of a query are added by the blocks that made them, a cluster; more by a kernel of its own: clusters
// of four do not all find a place at once (notes.md).
constexpr int together = 2;

// How a call is split over blocks: what a simple model of the time, in microseconds, likes best (notes.md).
struct Plan {
    std::int64_t H, k, rows_of_q;
    int heads_each, groups;  // of a query
    int splits, tiles_each;

    explicit Plan(const SparseDecode& call) : H(call.H), k(call.k), rows_of_q(call.rows) {
        const auto tiles = static_cast<int>(std::max<std::int64_t>(1, blocks_for(call.k, tokens)));
        double least = 1e30;
        for (const Cost& cost : costs) {
            if (cost.heads > 8 && H <= cost.heads / 2) continue;  // half of the columns would be nothing
            const auto bunches = static_cast<int>(blocks_for(H, cost.heads));
            for (int each = tiles; each >= 1; --each) {
                const int count = (tiles + each - 1) / each;
                const double time = predicted(cost, bunches, count, each);
                if (count > most_parts || time >= least) continue;
                least = time;
                heads_each = cost.heads;
                groups = bunches;
                splits = count;
                tiles_each = each;
            }
        }
    }
    // Fewer heads a block: more blocks, whose tiles take less time, and tokens are read more often.
    struct Cost {
        int heads;
        double a_block, a_tile;
    };
    static constexpr Cost costs[] = {{64, 7.8, 1.72}, {32, 6.9, 1.2}, {16, 6.7, 1.33}, {8, 5.7, 1.31}};
    double predicted(const Cost& cost, int bunches, int count, int each) const {
        constexpr double starting = 4.8, a_row = 0.0034, bytes_a_us = 6.9e6;
        const double blocks = static_cast<double>(rows_of_q) * bunches * count;
        const double time = starting + std::ceil(blocks / multiprocessors) * (cost.a_block + cost.a_tile * each);
        if (count == 1) return time;
        const auto rows = static_cast<double>(rows_of_q * H);
        if (count == together) return time + 4.6 + rows * 0.00124;
        return time + rows * (a_row + 2.0 * count * latent * 4 / bytes_a_us);
    }
    // Of the kernel that adds: on multiprocessors that have no block of this one.
    int blocks_beside() const {
        constexpr double each = 5;  // by their registers
        const double free = multiprocessors - static_cast<double>(rows_of_q) * groups * splits;
        return static_cast<int>(std::max(0.0, free) * each);
    }
    __host__ __device__ int cluster() const { return splits == together ? together : 1; }
    Parts parts(Arena& arena) const { return {splits, rows_of_q * H, arena}; }
};

// A cluster's blocks add the parts of some heads each, three warpgroups of a block, in the order of the parts.
template <int heads>
__device__ void add_own(Memory<heads>& memory, const Parts& parts, const AttentionResult& result, std::int64_t first,
                        int first_head, int count, const Plan& plan) {
    constexpr int workers = threads - warpgroup, at_once = 4;  // rows of a warpgroup
    struct Weights {
        float of[heads][together];
    };
    auto& weights = reinterpret_cast<Weights&>(memory.p);
    static_assert(sizeof weights <= sizeof memory.p);
    const int each = (count + together - 1) / together, from = static_cast<int>(blockIdx.x) % together * each;
    const int mine = min(each, count - from), thread = static_cast<int>(threadIdx.x);
    if (thread < mine) {
        const std::int64_t row = first + from + thread;
        const float *maxima = parts.maximum + row * together, *sums = parts.sum + row * together;
        float maximum = minus_infinity(), sum = 0.0F;
        for (int i = 0; i < together; ++i) maximum = fmaxf(maximum, maxima[i]);
        for (int i = 0; i < together; ++i) {
            const float weight = maximum == minus_infinity() ? 0.0F : rescaling(maxima[i], maximum);
            weights.of[thread][i] = weight;
            sum += sums[i] * weight;
        }
        if (sum != sum) maximum = sum;  // NaN is no maximum, and not nothing
        memory.one_over[thread] =
            maximum == minus_infinity() ? 0.0F : 1.0F / denominator(result, first_head + from + thread, maximum, sum);
        result.lse[row] = told_lse(result, maximum, sum);
    }
    barrier_sync(of_both, workers);
    const int column = thread % warpgroup * 4;
    const std::int64_t part = plan.rows_of_q * plan.H * latent;
    for (int row = thread / warpgroup; row < mine; row += workers / warpgroup * at_once) {
        const float* of_row = parts.out + (first + from + row) * latent + column;
        Four sum[at_once] = {};
#pragma unroll
        for (int i = 0; i < together; ++i)
#pragma unroll
            for (int r = 0; r < at_once; ++r) {
                const int other = r * (workers / warpgroup);
                if (row + other >= mine) continue;
                const Four four = *reinterpret_cast<const Four*>(of_row + i * part + other * latent);
                const float weight = weights.of[row + other][i];
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[r].at[j] += four.at[j] * weight;
            }
#pragma unroll
        for (int r = 0; r < at_once; ++r) {
            const int other = row + r * (workers / warpgroup);
            if (other >= mine) continue;
            const float by = memory.one_over[other];
            auto* to = reinterpret_cast<std::uint32_t*>(result.out + (first + from + other) * latent + column);
            to[0] = to_bf16_pair(sum[r].at[0] * by, sum[r].at[1] * by);
            to[1] = to_bf16_pair(sum[r].at[2] * by, sum[r].at[3] * by);
        }
    }
}

// What block `block` begins with comes to the L2 cache, by who has brought the last tokens of this one: where all
// blocks of a wave begin at once, their q alone is 4 us of memory's time.
template <int heads>
__device__ void ask_for_beginning(const Plan& plan, int block, const bf16* q, const std::uint8_t* pages,
                                  const std::int32_t* indices, int first_slot, std::int64_t cache_slots) {
    const std::int64_t query = block / plan.groups;
    if (query >= plan.rows_of_q) return;
    const int first_head = block % plan.groups * heads, count = min(heads, static_cast<int>(plan.H) - first_head);
    const std::int32_t* row = indices + query * plan.k;
    if (warp_id() % 4 == 0 && lane_id() == 0) {
        bulk_prefetch(q + (query * plan.H + first_head) * width, count * 2 * width);
        if (plan.k >= 4 && reinterpret_cast<std::uintptr_t>(row) % 16 == 0)
            bulk_prefetch(row, static_cast<int>(plan.k) / 4 * 16);
    }
    const int i = first_slot + warp_id() % 4 * Ring::rows_each + lane_id();
    if (lane_id() >= Ring::rows_each || i >= plan.k) return;
    const std::int32_t slot = row[i];
    if (slot >= 0 && slot < cache_slots) bulk_prefetch(pages + std::int64_t{slot} * token_bytes, token_bytes);
}

// Block (query and heads; part of its selection). indices: [rows, k]
template <int heads>
__global__ void __launch_bounds__(threads, 1)
    attend_codes(const bf16* q, const std::uint8_t* pages, const std::int32_t* indices, std::int64_t cache_slots,
                 AttentionResult result, Parts parts, Plan plan) {
    let_next_kernel_start();
    auto& memory = shared<Memory<heads>>();
    const bool of_cluster = plan.splits == together;  // its blocks are side by side
    const int block = static_cast<int>(of_cluster ? blockIdx.x / together : blockIdx.x);
    const std::int64_t query = block / plan.groups;
    const int first_head = block % plan.groups * heads;
    const int count = min(heads, static_cast<int>(plan.H) - first_head);
    const std::int64_t first = query * plan.H + first_head;  // row of out
    const int split = static_cast<int>(of_cluster ? blockIdx.x % together : blockIdx.y);
    const int first_slot = split * plan.tiles_each * tokens;
    const int slots = min(static_cast<int>(plan.k) - first_slot, plan.tiles_each * tokens);
    const int tiles = max(1, (slots + tokens - 1) / tokens);
    const std::int32_t* row = indices + query * plan.k;
    const int thread = static_cast<int>(threadIdx.x), role = thread / warpgroup;
    const QueryPanels<heads> of_q{memory, count};
    Turn turn;
    Selection::Mine mine{};  // of those that weigh: what they look for
    if (role == weighing + 1) {
        if (thread % warpgroup == 0) {
            init_barriers(memory);
            of_q.bring(q + first * width);
        }
    } else if (role < weighing) {
        mine = Selection::read(row, first_slot + slots, thread);
        Selection::clear(memory.table, thread);
    } else if (thread % warpgroup < heads) {
        memory.reference[thread % warpgroup] = nothing;
    }
    __syncthreads();
    if (role == weighing + 1) {
        give_back_registers<carrier_registers>();
        bring(memory.ring, pages, row + first_slot, slots, tiles, cache_slots, warp_id() % 4,
              [&] { mbarrier_wait_in_block(memory.q_taken, 0); });
        if (plan.splits <= together)
            ask_for_beginning<heads>(plan, block + static_cast<int>(multiprocessors) / plan.cluster(), q, pages,
                                     indices, first_slot, cache_slots);
        if (of_cluster) cluster_sync();
        return;
    }
    if (role < weighing) {
        memory.selection.find(memory.table, mine, row, cache_slots, thread, of_weighers);
        warp_arrives(memory.counts_known);
    }
    of_q.convert(of_both);
    if (role == weighing) {
        give_back_registers<scorer_registers>();
        mbarrier_wait_in_block(memory.q_taken, 0);
        Scorer<heads> scorer(memory, result.scale);
        scorer.set_scale();
        const auto counts = [&](int tile) {
            if (tile == 0) mbarrier_wait_in_block(memory.counts_known, 0);
            const std::uint32_t* words = memory.selection.counts + (first_slot + tile * tokens) / 32;
            return words[0] | std::uint64_t{words[1]} << 32;
        };
        for (int tile = 0; tile < tiles; ++tile, turn.next()) scorer.score(tile, turn, counts);
        scorer.tell(tiles - 1);
        scorer.finish([&](int head, float reference, float sum) {
            memory.one_over[head] = 0.0F;
            if (head >= count) return;
            if (plan.splits > 1) {
                parts.maximum[(first + head) * plan.splits + split] = reference;
                parts.sum[(first + head) * plan.splits + split] = sum;
                return;
            }
            if (reference != minus_infinity())
                memory.one_over[head] = 1.0F / denominator(result, first_head + head, reference, sum);
            result.lse[first + head] = told_lse(result, reference, sum);
        });
        if (of_cluster) {
            cluster_sync();
            add_own(memory, parts, result, first, first_head, count, plan);
        } else {
            barrier_arrive(of_both, threads - warpgroup);
        }
    } else {
        take_registers<weigher_registers>();
        Weigher<heads> weigher(memory);
        for (int tile = 0; tile < tiles; ++tile, turn.next()) weigher.weigh(tile, turn);
        if (plan.splits > 1) {
            float* to = parts.out + (split * plan.rows_of_q * plan.H + first) * latent;
            weigher.each_four(count, [&](int head, int column, const Four& four) {
                *reinterpret_cast<Four*>(to + std::int64_t{head} * latent + column) = four;
            });
        }
        if (of_cluster) {
            cluster_sync();
            add_own(memory, parts, result, first, first_head, count, plan);
            return;
        }
        barrier_sync(of_both, threads - warpgroup);
        if (plan.splits > 1) return;
        bf16* to = result.out + first * latent;
        weigher.each_four(count, [&](int head, int column, const Four& four) {
            const float by = memory.one_over[head];
            auto* pairs = reinterpret_cast<std::uint32_t*>(to + std::int64_t{head} * latent + column);
            pairs[0] = to_bf16_pair(four.at[0] * by, four.at[1] * by);
            pairs[1] = to_bf16_pair(four.at[2] * by, four.at[3] * by);
        });
    }
}

template <int heads>
void attend_with(const SparseDecode& call, const Plan& plan, const Parts& parts) {
    launch("sparse_decode_codes", attend_codes<heads>,
           {.blocks = call.rows * plan.groups * plan.cluster(),
            .threads = threads,
            .shared_bytes = sizeof(Memory<heads>),
            .stream = call.stream,
            .blocks_y = plan.splits / plan.cluster(),
            .cluster = plan.cluster()},
           call.q, call.kv_pages, call.indices, call.slots, call.result, parts, plan);
}

}  // namespace

std::string sparse_decode_level_10_declines(const SparseDecode& call) {
    if (call.R_kv != latent || call.d != width)
        return sentence("tokens must be of ", latent, " + ", rotated, " columns; they are of ", call.R_kv, " + ",
                        call.d - call.R_kv);
    if (call.k > most_slots) return sentence("k must be at most ", most_slots, "; it is ", call.k);
    return {};
}

std::int64_t sparse_decode_workspace_10(const SparseDecode& call) {
    Arena arena;
    Plan(call).parts(arena);
    return arena.bytes();
}

void sparse_decode_level_10(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_10(call));
    if (call.rows == 0 || call.H == 0) return;
    const Plan plan(call);
    Arena arena(call.workspace);
    const Parts parts = plan.parts(arena);
    const auto attend = plan.heads_each == 8    ? attend_with<8>
                        : plan.heads_each == 16 ? attend_with<16>
                        : plan.heads_each == 32 ? attend_with<32>
                                                : attend_with<64>;
    attend(call, plan, parts);
    if (plan.splits > plan.cluster())
        add_parts<true, true>(parts, call.result, call.rows, call.H, plan.splits, call.stream, plan.blocks_beside());
}

}  // namespace dsa
