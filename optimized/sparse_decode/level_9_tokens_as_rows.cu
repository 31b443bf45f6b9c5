// Level 9. At most 32 heads, and no rows computed for heads that are not there: tokens are the rows of the products,
// heads their columns (attention/few_heads.cuh). What bounds it is the tokens' bytes: four warps keep five tiles of
// 32 under way by bulk copies, as they are in the cache. Who scores a tile reads its codes where they land and makes
// of them, in registers, just the fragments that k q^T wants: lane 4 g + p has token g, and which columns are its own
// is free as long as q agrees. On the way the fragments are stored once, for v^T p^T.
#include "optimized/attention/distinct.cuh"
#include "optimized/attention/few_heads.cuh"
#include "optimized/attention/row_ring.cuh"
#include "optimized/hopper/dependent.h"
#include "optimized/hopper/registers.h"
#include "optimized/sparse_decode/dequantise.cuh"
#include "optimized/sparse_decode/parts.cuh"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using namespace few_heads;
using cached_tiles::Plan;

constexpr int scaled = 128;  // columns that share a scale: a quarter of the latent, one warp's
constexpr int scales_at = latent, rotated_at = latent + 4 * quarters;
constexpr int token_bytes = rotated_at + 2 * rotated;
constexpr int stages = 4;
constexpr int value_tiles = 3;  // one is made while another is weighed and a third waits for its softmax
using Ring = RowRing<stages, token_bytes, token_bytes + 48, carriers>;  // 8 lanes, 2 tokens: all banks
constexpr int value_pitch = 2 * latent + 16;

using Selection = DistinctSlots<worker_threads, most_slots, 12>;

template <int heads>
struct Memory {
    Ring ring;
    alignas(16) unsigned char values[value_tiles][tokens * value_pitch];  // in the order of columns of dequantise.cuh
    union {
        typename Selection::Table table;  // before an item's first tile
        Exchange<heads> exchange;
    };
    Selection selection;
    float one_over[heads];  // at the end
};

// A block's part of a query's selection.
struct Part {
    std::int64_t query;     // of B s_q
    int first_slot, slots;  // of the query's k
    __device__ int tiles() const { return max(1, (slots + tokens - 1) / tokens); }
};

// One of the four warps, a slot a lane.
__device__ void bring(Ring& ring, const std::uint8_t* pages, const std::int32_t* own, const Part& part,
                      std::int64_t cache_slots, int carrier) {
    const auto index = [&](int tile) {
        const int slot = tile * tokens + carrier * Ring::rows_each + lane_id() % Ring::rows_each;
        return slot < part.slots ? own[slot] : -1;
    };
    RingTurn<stages> turn;
    std::int32_t next = index(0);
    for (int tile = 0; tile < part.tiles(); ++tile) {
        const std::int32_t now = next;
        next = index(tile + 1);
        bring_rows<false>(ring, turn, carrier, pages, cache_slots, now);
    }
}

// A warp scores tokens g and g + 8 of its 16, and 128 + 16 columns: its quarter of the latent, and of the rotated
// ones.
template <int heads>
struct CachedTiles {
    static constexpr int pitch = value_pitch;
    static constexpr int chunks = 2;  // of 64 columns; a lane has 16 of each
    Memory<heads>& memory;
    QueryPart<heads> q;
    RingTurn<stages> turn;
    int made = 0, weighs = 0;    // of memory.values
    Words codes[chunks][2];      // [chunk, token]
    std::uint32_t turned[2][2];  // rotated columns: [token, pair]
    float scale[2];
    bool by_bits = true;        // or one by one: a NaN, or a scale of another kind
    std::uint32_t pairs[4][4];  // a chunk as A: [step, register]

    __device__ explicit CachedTiles(Memory<heads>& of) : memory(of) {}
    // q: [count, width]
    __device__ void load_query(const bf16* rows, int count) {
#pragma unroll
        for (int n = 0; n < heads / 8; ++n) {
            const int head = 8 * n + group();
            const bf16* row = rows + head * width;
#pragma unroll
            for (int i = 0; i < 2 * chunks; ++i) {
                Words eight{};
                if (head < count)
                    eight = *reinterpret_cast<const Words*>(row + scaled * quarter() + i / 2 * 64 + 16 * place() +
                                                            i % 2 * 8);
                eight = in_column_order(eight);
#pragma unroll
                for (int j = 0; j < 4; ++j) q[2 * i + j / 2][n][j % 2] = eight.at[j];
            }
#pragma unroll
            for (int j = 0; j < 2; ++j)
                q[steps - 1][n][j] =
                    head < count
                        ? *reinterpret_cast<const std::uint32_t*>(row + latent + 16 * quarter() + 4 * place() + 2 * j)
                        : 0;
        }
    }
    // All of a token that this lane wants comes to registers; then its place is free again.
    __device__ void begin() {
        mbarrier_wait_in_block(memory.ring.full[turn.at], turn.parity);
        const std::uint32_t present = *reinterpret_cast<const std::uint32_t*>(memory.ring.present[turn.at]);
#pragma unroll
        for (int o = 0; o < 2; ++o) {
            const int row = 16 * token_group() + group() + 8 * o;
            const unsigned char* token = memory.ring.tile[turn.at] + row * Ring::pitch;
            const bool there = (present >> row & 1) != 0;
#pragma unroll
            for (int c = 0; c < chunks; ++c)
                codes[c][o] =
                    there ? *reinterpret_cast<const Words*>(token + scaled * quarter() + 64 * c + 16 * place())
                          : Words{};
            scale[o] = there ? reinterpret_cast<const float*>(token + scales_at)[quarter()] : 1.0F;
#pragma unroll
            for (int j = 0; j < 2; ++j)
                turned[o][j] =
                    there
                        ? reinterpret_cast<const std::uint32_t*>(token + rotated_at + 32 * quarter() + 8 * place())[j]
                        : 0;
        }
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(memory.ring.empty[turn.at]);
        turn.next();
        std::uint32_t trouble = scale_for_pairs(scale[0]) == 0 || scale_for_pairs(scale[1]) == 0 ? nan_bits : 0;
#pragma unroll
        for (int i = 0; i < 2 * chunks; ++i) trouble |= nan_codes(codes[i / 2][i % 2]);
        by_bits = !__any_sync(all_lanes, (trouble & nan_bits) != 0);
    }
    __device__ void convert(int c) {
        unsigned char* to = memory.values[made] + (16 * token_group() + group()) * value_pitch +
                            2 * (scaled * quarter() + 64 * c + 16 * place());
#pragma unroll
        for (int o = 0; o < 2; ++o) {
            Words numbers[2];
            if (by_bits)
                dequantise(codes[c][o], scale_for_pairs(scale[o]), numbers);
            else
                dequantise_one_by_one(codes[c][o], scale[o], numbers);
#pragma unroll
            for (int i = 0; i < 2; ++i) *reinterpret_cast<Words*>(to + o * 8 * value_pitch + i * 16) = numbers[i];
#pragma unroll
            for (int i = 0; i < 8; ++i) pairs[i / 2][i % 2 * 2 + o] = numbers[i / 4].at[i % 4];
        }
    }
    __device__ void keys(std::uint32_t (&a)[4], int step) {
        if (step < steps - 1 && step % 4 == 0) convert(step / 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = step < steps - 1 ? pairs[step % 4][i] : turned[i % 2][i / 2];
    }
    __device__ void scored() { made = made + 1 == value_tiles ? 0 : made + 1; }
    __device__ const unsigned char* values() const { return memory.values[weighs]; }
    __device__ void weighed() { weighs = weighs + 1 == value_tiles ? 0 : weighs + 1; }
};

// Block (query; part of its selection). indices: [rows, k]
template <int heads>
__global__ void __launch_bounds__(threads, 1)
    attend_part(const bf16* q, const std::uint8_t* pages, const std::int32_t* indices, std::int64_t cache_slots,
                AttentionResult result, Parts parts, Plan plan) {
    let_next_kernel_start();
    auto& memory = shared<Memory<heads>>();
    Exchange<heads>& exchange = memory.exchange;
    const auto H = static_cast<int>(plan.H), k = static_cast<int>(plan.k);
    const int split = static_cast<int>(blockIdx.y), first_slot = split * plan.tiles_each * tokens;
    const Part part{static_cast<std::int64_t>(blockIdx.x), first_slot, min(k - first_slot, plan.tiles_each * tokens)};
    const std::int32_t* row = indices + part.query * k;
    const std::int64_t first = part.query * H;
    if (threadIdx.x == 0) memory.ring.init(workers);
    __syncthreads();
    if (warp_id() >= workers) {
        give_back_registers<carrier_registers>();
        bring(memory.ring, pages, row + first_slot, part, cache_slots, warp_id() - workers);
        return;
    }
    take_registers<worker_registers>();
    CachedTiles<heads> tiles(memory);
    tiles.load_query(q + first * width, H);
    memory.selection.find(memory.table, row, first_slot + part.slots, cache_slots, static_cast<int>(threadIdx.x),
                          workers_barrier);
    RunningSoftmax<heads> softmax;
    Outputs<heads> out;
    Walk<heads, CachedTiles<heads>>{
        exchange, tiles, memory.selection.counts + first_slot / tokens, result.scale * log2_e, softmax, out}
        .run(part.tiles());
    if (plan.splits > 1) {
        softmax.conclude([&](int head, float reference, float, float sum) {
            if (head >= H) return;
            parts.maximum[(first + head) * plan.splits + split] = reference;
            parts.sum[(first + head) * plan.splits + split] = sum;
        });
        store_sums(out, H, parts.out + (split * plan.rows_of_q * H + first) * latent);
        return;
    }
    softmax.conclude([&](int head, float reference, float, float sum) {
        const bool empty = reference == minus_infinity();
        memory.one_over[head] = 0.0F;
        if (head >= H) return;
        if (!empty) memory.one_over[head] = 1.0F / denominator(result, head, reference, sum);
        result.lse[first + head] = told_lse(result, reference, sum);
    });
    workers_meet();
    store_rows(exchange, memory.one_over, out, H, result.out + first * latent, [](const Piece& eight) {
        const Words plain = in_column_order({{eight.at[0], eight.at[1], eight.at[2], eight.at[3]}});
        return Piece{{plain.at[0], plain.at[1], plain.at[2], plain.at[3]}};
    });
}

// Into how many parts selections are split: what a simple model of the time, in microseconds, likes best.
Plan plan_of(const SparseDecode& call) {
#if defined(DSA_SIMULATOR)
    constexpr double multiprocessors = 4;  // small cases shall go round the ring
#else
    constexpr double multiprocessors = 132;
#endif
    constexpr double a_block = 6.0, a_tile = 1.2, adding = 5.0, bytes_a_us = 1.5e6;
    Plan plan(call);
    plan.groups = 1;
    plan.heads_each = static_cast<int>(call.H);
    const auto tiles = static_cast<int>(std::max<std::int64_t>(1, blocks_for(call.k, tokens)));
    Plan best = plan;
    double least = 1e30;
    for (int each = tiles; each >= 1; --each) {
        plan.splits = (tiles + each - 1) / each;
        plan.tiles_each = each;
        const double rounds = std::ceil(static_cast<double>(call.rows) * plan.splits / multiprocessors);
        double time = rounds * (a_block + a_tile * each);
        if (plan.splits > 1)
            time += adding + 2.0 * static_cast<double>(call.rows * call.H) * plan.splits * latent * 4 / bytes_a_us;
        if (time >= least) continue;
        least = time;
        best = plan;
    }
    return best;
}

template <int heads>
void attend_with(const SparseDecode& call, const Plan& plan, const Parts& parts) {
    launch("sparse_decode_few_heads", attend_part<heads>,
           {.blocks = call.rows,
            .threads = threads,
            .shared_bytes = sizeof(Memory<heads>),
            .stream = call.stream,
            .blocks_y = plan.splits},
           call.q, call.kv_pages, call.indices, call.slots, call.result, parts, plan);
}

}  // namespace

std::string sparse_decode_level_9_declines(const SparseDecode& call) {
    if (call.H > 32) return sentence("it is for at most 32 heads; there are ", call.H);
    if (call.R_kv != latent || call.d != width)
        return sentence("tokens must be of ", latent, " + ", rotated, " columns; they are of ", call.R_kv, " + ",
                        call.d - call.R_kv);
    if (call.k > most_slots) return sentence("k must be at most ", most_slots, "; it is ", call.k);
    return {};
}

std::int64_t sparse_decode_workspace_9(const SparseDecode& call) {
    Arena arena;
    plan_of(call).parts(arena);
    return arena.bytes();
}

void sparse_decode_level_9(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_9(call));
    const Plan plan = plan_of(call);
    Arena arena(call.workspace);
    const Parts parts = plan.parts(arena);
    if (call.H <= 8)
        attend_with<8>(call, plan, parts);
    else if (call.H <= 16)
        attend_with<16>(call, plan, parts);
    else
        attend_with<32>(call, plan, parts);
    if (plan.splits > 1) add_parts<true>(parts, call.result, call.rows, call.H, plan.splits, call.stream);
}

}  // namespace dsa
