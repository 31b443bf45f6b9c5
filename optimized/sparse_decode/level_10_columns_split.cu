// Level 10. The two blocks of a cluster split columns, not tokens: each converts half of the columns of all tokens,
// adds up scores of all 128 heads over them, and weighs 256 columns of the values for 128 heads. No tile is sent; half
// of the scores (float32) and half of p (bf16) are. Of a block's three warpgroups one converts, and
//
//   the owner   has the 64 heads whose softmax this block makes: to its own sums over half of the columns it adds
//               what the other block's helper sends, and sends p back
//   the helper  has the other 64 heads: it sends its scores, a tile ahead, and gets p
//
//     owner     softmax (i)       p v (i), q k^T (i + 1)    softmax (i + 1)
//     helper    q k^T (i + 1)     wait for p (i), p v (i)   q k^T (i + 2)
//     converts  tile i + 2, when both have weighed tile i - 1
#include "optimized/attention/head_rows.cuh"
#include "optimized/hopper/dependent.h"
#include "optimized/hopper/registers.h"
#include "optimized/hopper/send.h"
#include "optimized/hopper/tma.h"
#include "optimized/sparse_decode/adding.cuh"
#include "optimized/sparse_decode/column_converter.cuh"
#include "optimized/sparse_decode/op.h"
#include "optimized/sparse_decode/own_slots.cuh"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using namespace latent_tile;
using cached_tiles::HalfRows;
using cached_tiles::own_columns;

constexpr int threads = 3 * warpgroup;
constexpr int stages = 3;
constexpr int consumer_registers = 208, converter_registers = 88;  // of 3 x 168
constexpr int most_items = 8;  // of a block: it finds all their counting slots when it begins
constexpr int most_slots = 2048;
#if defined(DSA_SIMULATOR)
constexpr int pairs_of_multiprocessors = 2;  // small cases shall give a block several items and split some
#else
constexpr int pairs_of_multiprocessors = 66;
#endif
using Selecting = OwnSlots<2 * warpgroup, most_slots, most_slots, 12>;  // owner and helper
enum : int { group_barrier = 1, consumers_barrier = 3 };

// What a warp of the owner tells of its 16 heads beside p.
struct alignas(128) Told {
    float factor[16];    // by what older sums are multiplied
    float one_over[16];  // after an item's last tile: what its sums are multiplied by
};
struct alignas(16) FourScores {
    float at[4];
};
struct Memory {
    HalfRows tile[stages];
    HalfRows q[2];                                 // the owner's, the helper's; then their sums on the way out
    alignas(1024) unsigned char p[2][sizeof(Panel)];  // the owner's, to be sent; the one that comes to the helper
    FourScores scores[keys / 8][warpgroup];  // the owner's, over the other block's columns, as its lanes have them
    Told told[2][4];                               // as p
    std::uint32_t counts[most_items][most_slots / 32];  // a bit a slot: does it count?
    Mbarrier counts_known;
    Mbarrier full[stages], empty[stages];
    Mbarrier q_full[2];
    Mbarrier scores_full[4], scores_empty[4];  // a warp each
    Mbarrier p_full, p_empty;
};
static_assert(sizeof(Selecting::Place) <= sizeof(HalfRows));

// How a call is cut into items: (query, 128 heads, part of the selection), a cluster each.
struct Cut {
    int rows, H, k;  // rows: B s_q
    int bunches, splits, tiles_each, all_tiles;
    int items, clusters;  // a cluster takes every clusters-th item

    explicit Cut(const SparseDecode& call)
        : rows(static_cast<int>(call.rows)), H(static_cast<int>(call.H)), k(static_cast<int>(call.k)) {
        bunches = static_cast<int>(blocks_for(call.H, 2 * heads));
        all_tiles = static_cast<int>(std::max<std::int64_t>(1, blocks_for(call.k, keys)));
        double best = 1e30;
        for (int each = all_tiles; each >= 1; --each) {
            const int count = (all_tiles + each - 1) / each;
            if (count > most_parts) break;
            const double time = predicted(count, each);
            if (time >= best) continue;
            best = time;
            splits = count;
            tiles_each = each;
        }
        items = rows * bunches * splits;
        const int most = pairs_of_multiprocessors * most_items;
        const int waves = std::max(1, (items + most - 1) / most);
        const int each = (items + pairs_of_multiprocessors * waves - 1) / (pairs_of_multiprocessors * waves);
        clusters = (items + each - 1) / std::max(1, each);
    }
    // Microseconds on an H100.
    double predicted(int count, int each) const {
        constexpr double beginning = 8, a_tile = 1.7, storing = 3, adding = 3, bytes_a_us = 3e6;
        const double rounds = (rows * bunches * count + pairs_of_multiprocessors - 1) / pairs_of_multiprocessors;
        const double time = beginning + rounds * a_tile * each;
        if (count == 1) return time;
        return time + rounds * storing + adding + 2.0 * rows * H * count * d_v * 4 / bytes_a_us;
    }
    __device__ int query(int item) const { return item / (bunches * splits); }
    __device__ int split(int item) const { return item % splits; }
    __device__ int first_head(int item, int group) const { return (item / splits % bunches * 2 + group) * heads; }
    __device__ int first_tile(int item) const { return split(item) * tiles_each; }
};

// What the warpgroups are told of the call.
struct Job {
    Memory& memory;
    const TensorMap &q_map, &turned_map, &out_map;
    const std::uint8_t* pages;
    const std::int32_t* indices;  // [rows, k]
    const std::int64_t cache_slots;
    const AttentionResult& result;
    const Parts& parts;
    const Cut& cut;
    const int items = cut.items, first = static_cast<int>(blockIdx.x) / 2, stride = cut.clusters;
    const int rank = cluster_rank();

    __device__ int tiles(int item) const { return min(cut.tiles_each, cut.all_tiles - cut.first_tile(item)); }
    __device__ const std::int32_t* row(int item) const { return indices + std::int64_t{cut.query(item)} * cut.k; }
    __device__ cached_tiles::Part part(int item) const {
        const int first_slot = cut.first_tile(item) * keys;
        return {row(item) + first_slot, cut.k - first_slot};
    }

    // Owner and helper, before the first tile: which slots of all of this block's items count. The blocks find out
    // about every second item each and tell the other.
    __device__ void find_counting() const {
        auto& place = *reinterpret_cast<Selecting::Place*>(&memory.tile[stages - 1]);
        for (int item = first, i = 0; item < items; item += stride, ++i) {
            if (i % 2 != rank) continue;
            barrier_sync(consumers_barrier, 2 * warpgroup);  // the last item's place has been read
            const int first_slot = cut.first_tile(item) * keys;
            const auto mine = Selecting::read(row(item), min(cut.k, first_slot + tiles(item) * keys));
            Selecting::find_counting(place, consumers_barrier, mine, first_slot, cache_slots,
                                     [&](int at, std::uint32_t found) {
                                         std::uint32_t& of = memory.counts[i][at / 32];
                                         of = found;
                                         *of_block(&of, rank ^ 1) = found;
                                     });
        }
        cached_tiles::tell_cluster<2>(memory.counts_known);
    }

    // One thread. half: 0 the owner's, 1 the helper's.
    __device__ void load_q(int item, int half) const {
        const int at = cut.query(item) * cut.H + cut.first_head(item, rank ^ half);
        Mbarrier& full = memory.q_full[half];
        mbarrier_arrive_expect(full, sizeof memory.q[half]);
        for (int panel = 0; panel < cached_tiles::own_panels; ++panel)
            tma_load(&memory.q[half].panel[panel], q_map,
                     {rank * own_columns + panel * panel_columns, at}, full);
        tma_load(memory.q[half].turned, turned_map, {d_v + rank * cached_tiles::own_rotated, at}, full);
    }
};

// What owner and helper have in common: a warpgroup with 64 heads and this block's columns.
struct Worker {
    const Job& job;
    const int half;  // 0 the owner's, 1 the helper's
    Memory& memory = job.memory;
    const int warp = warp_id() % 4;
    const bool first_thread = threadIdx.x % warpgroup == 0;
    int stage = 0, parity = 0;  // of the tile that is scored next
    int weighs = 0;             // the stage of the one that is weighed next

    __device__ void meet() const { barrier_sync(group_barrier + half, warpgroup); }
    // s = q k^T over this block's columns: [heads, keys]. Issued, not waited for.
    __device__ void score_next(float (&s)[keys / 2]) {
        const HalfRows &q = memory.q[half], &k = memory.tile[__shfl_sync(all_lanes, stage, 0)];
        mbarrier_wait_in_block(memory.full[stage], parity);
        fence_proxy_async_shared();  // for those who have written the tile
        Descriptor a = k_major(q.panel, wide), b = k_major(k.panel, wide);
        Descriptor turned_a = k_major(q.turned, Swizzle::bytes_64), turned_b = k_major(k.turned, Swizzle::bytes_64);
        hold(a), hold(b), hold(turned_a), hold(turned_b);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < cached_tiles::own_panels * steps; ++i) {
            const int at = i / steps * static_cast<int>(sizeof(Panel)) + i % steps * 32;
            wgmma<bf16>(s, advanced(a, at), advanced(b, at), i > 0);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) wgmma<bf16>(s, advanced(turned_a, 32 * i), advanced(turned_b, 32 * i), true);
        wgmma_commit();
        if (++stage == stages) stage = 0, parity ^= 1;
    }
    __device__ const Panel* values() const { return memory.tile[__shfl_sync(all_lanes, weighs, 0)].panel; }
    __device__ void weighed() {
        cached_tiles::warp_arrives(memory.empty[weighs]);
        if (++weighs == stages) weighs = 0;
    }
    __device__ static void rescale(float (&out)[d_v / 4], float up, float down) {
#pragma unroll
        for (int i = 0; i < d_v / 4; ++i) out[i] *= i / 2 % 2 == 0 ? up : down;
    }
    // An item's sums go by way of the place of q, which all products have read; then the next q comes there.
    __device__ void leave(int item, const float (&out)[d_v / 4], const float (&one_over)[2]) const {
        const Cut& cut = job.cut;
        auto* place = reinterpret_cast<unsigned char*>(&memory.q[half]);
        const int query = cut.query(item);
        meet();
        if (cut.splits == 1) {
            store_panels<sizeof(Panel), d_v / 4>(out, one_over, place);
            send_out(item, query, 0, panel_columns);
        } else {
            const int query_of_part = cut.split(item) * cut.rows + query;
            store_sums<d_v / 8>(out, 0, place);
            send_out(item, query_of_part, 0, row_bytes / 4);
            meet();
            store_sums<d_v / 8>(out, d_v / 8, place);
            send_out(item, query_of_part, own_columns / 2, row_bytes / 4);
        }
        if (first_thread && item + job.stride < job.items) job.load_q(item + job.stride, half);
    }
    // Four panels of `columns` columns each, when all have written.
    __device__ void send_out(int item, int query, int first_column, int columns) const {
        fence_proxy_async_shared();
        meet();
        if (!first_thread) return;
        for (int panel = 0; panel < 4; ++panel)
            tma_store(job.out_map,
                      {job.rank * own_columns + first_column + panel * columns,
                       job.cut.first_head(item, job.rank ^ half), query},
                      &memory.q[half].panel[panel]);
        bulk_commit();
        bulk_wait_read<0>();
    }
};

// The end of an item's softmax: what a lane's two rows are multiplied by.
__device__ void conclude(const Job& job, int item, const RunningSoftmax& softmax, float (&one_over)[2]) {
    const Cut& cut = job.cut;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float sum = softmax.total(r);
        const int head = cut.first_head(item, job.rank) + wgmma_row(static_cast<int>(threadIdx.x), 2 * r);
        one_over[r] = 0.0F;
        if (head >= cut.H) continue;
        // Where all logits are NaN there is no maximum; nor is the row empty.
        const float maximum = sum != sum ? sum : softmax.reference[r] * job.result.scale;
        const std::int64_t at = std::int64_t{cut.query(item)} * cut.H + head;
        if (cut.splits > 1) {
            if (lane_id() % 4 != 0) continue;
            job.parts.maximum[at * cut.splits + cut.split(item)] = maximum;
            job.parts.sum[at * cut.splits + cut.split(item)] = sum;
            continue;
        }
        if (maximum != minus_infinity()) one_over[r] = 1.0F / denominator(job.result, head, maximum, sum);
        if (lane_id() % 4 == 0) job.result.lse[at] = told_lse(job.result, maximum, sum);
    }
}

__device__ void own(Worker worker) {
    const Job& job = worker.job;
    Memory& memory = job.memory;
    const int warp = worker.warp, lane = lane_id(), thread = static_cast<int>(threadIdx.x) % warpgroup;
    const int other = job.rank ^ 1;
    const float to_log2 = job.result.scale * one_over_ln2;
    constexpr int score_bytes = 32 * keys / 2 * 4, p_bytes = 16 * row_bytes;  // of a warp
    if (lane == 0) mbarrier_arrive_expect(memory.scores_full[warp], score_bytes);
    int turn = 0;  // tiles so far
    for (int item = job.first, round = 0; item < job.items; item += job.stride, ++round) {
        const int tiles = job.tiles(item);
        RunningSoftmax softmax;
        float out[d_v / 4], s[keys / 2], one_over[2] = {};
        mbarrier_wait_in_block(memory.q_full[0], round % 2);
        worker.score_next(s);
        wgmma_wait<0>();
        hold(s);
        if (round == 0) mbarrier_wait(memory.counts_known, 0);  // told by the other block, too
        for (int tile = 0; tile < tiles; ++tile, ++turn) {
            const bool last = tile + 1 == tiles;
            const std::uint32_t* counts = &memory.counts[round][2 * (job.cut.first_tile(item) + tile)];
            const std::uint32_t valid[2] = {counts[0], counts[1]};
            mbarrier_wait_in_block(memory.scores_full[warp], turn % 2);
#pragma unroll
            for (int i = 0; i < keys / 2; i += 4) {
                const FourScores four = memory.scores[i / 4][thread];
#pragma unroll
                for (int j = 0; j < 4; ++j) s[i + j] += four.at[j];
            }
            __syncwarp();
            if (lane == 0) {
                mbarrier_arrive_expect(memory.scores_full[warp], score_bytes);
                mbarrier_arrive_at_relaxed(memory.scores_empty[warp], other);
            }
            const bool rises = softmax.step(s, valid, to_log2);
            std::uint32_t p[keys / 16][4];
#pragma unroll
            for (int step = 0; step < keys / 16; ++step) fragment_of(s + 8 * step, p[step]);
            if (last) conclude(job, item, softmax, one_over);
            mbarrier_wait_in_block(memory.p_empty, turn % 2 ^ 1);
#pragma unroll
            for (int step = 0; step < keys / 16; ++step) store_fragment<wide>(p[step], step, memory.p[0]);
            Told& told = memory.told[0][warp];
            if (lane % 4 == 0)
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    told.factor[lane / 4 + 8 * r] = softmax.factor[r];
                    told.one_over[lane / 4 + 8 * r] = one_over[r];
                }
            fence_proxy_async_shared();
            __syncwarp();
            if (lane == 0) {
                bulk_send(memory.p[1] + warp * p_bytes, memory.p[0] + warp * p_bytes, p_bytes, memory.p_full, other);
                bulk_send(&memory.told[1][warp], &told, sizeof told, memory.p_full, other);
            }
            if (tile > 0 && rises) worker.rescale(out, softmax.factor[0], softmax.factor[1]);
            hold(out);
            wgmma_fence();
            weigh<sizeof(Panel)>(out, p, worker.values(), tile > 0);
            wgmma_commit();
            if (!last) {
                worker.score_next(s);
                wgmma_wait<1>();
                worker.weighed();
                wgmma_wait<0>();
                hold(s);
            } else {
                wgmma_wait<0>();
                worker.weighed();
            }
            hold(out);
        }
        worker.leave(item, out, one_over);
    }
}

__device__ void help(Worker worker) {
    const Job& job = worker.job;
    Memory& memory = job.memory;
    const int warp = worker.warp, lane = lane_id(), thread = static_cast<int>(threadIdx.x) % warpgroup;
    const int other = job.rank ^ 1;
    constexpr int bytes = 16 * row_bytes + static_cast<int>(sizeof(Told));  // that come to a warp
    if (lane == 0) mbarrier_arrive_expect(memory.p_full, bytes);
    int turn = 0, sent = 0;
    for (int item = job.first, round = 0; item < job.items; item += job.stride, ++round) {
        const int tiles = job.tiles(item);
        float out[d_v / 4], s[keys / 2], one_over[2] = {};
        const auto send_scores = [&] {
            worker.score_next(s);
            wgmma_wait<0>();
            hold(s);
            mbarrier_wait_in_block(memory.scores_empty[warp], sent++ % 2 ^ 1);
            send_numbers(memory.scores[0][thread].at, sizeof memory.scores[0], s, memory.scores_full[warp], other);
        };
        mbarrier_wait_in_block(memory.q_full[1], round % 2);
        send_scores();
        for (int tile = 0; tile < tiles; ++tile, ++turn) {
            if (tile + 1 < tiles) send_scores();
            mbarrier_wait_in_block(memory.p_full, turn % 2);
            const Told& told = memory.told[1][warp];
            const float up = told.factor[lane / 4], down = told.factor[lane / 4 + 8];
#pragma unroll
            for (int r = 0; r < 2; ++r) one_over[r] = told.one_over[lane / 4 + 8 * r];
            if (tile > 0 && __any_sync(all_lanes, up != 1.0F || down != 1.0F)) worker.rescale(out, up, down);
            hold(out);
            wgmma_fence();
            weigh<wide, sizeof(Panel)>(out, memory.p[1], worker.values(), tile > 0);
            wgmma_commit();
            wgmma_wait<0>();
            hold(out);
            worker.weighed();
            if (lane == 0) {
                mbarrier_arrive_expect(memory.p_full, bytes);
                mbarrier_arrive_at_relaxed(memory.p_empty, other);
            }
        }
        worker.leave(item, out, one_over);
    }
}

// Block: one of a cluster of two, which have the same items.
__global__ void __launch_bounds__(threads, 1)
    attend(const std::uint8_t* pages, const std::int32_t* indices, std::int64_t cache_slots, AttentionResult result,
           Parts parts, Cut cut, const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap turned_map,
           const __grid_constant__ TensorMap out_map) {
    let_next_kernel_start();
    auto& memory = shared<Memory>();
    const Job job{memory, q_map, turned_map, out_map, pages, indices, cache_slots, result, parts, cut};
    if (threadIdx.x == 0) {
        mbarrier_init(memory.counts_known, 2 * 8);
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(memory.full[i], 4);
            mbarrier_init(memory.empty[i], 8);
        }
        for (Mbarrier& barrier : memory.q_full) mbarrier_init(barrier, 1);
        for (int i = 0; i < 4; ++i) {
            mbarrier_init(memory.scores_full[i], 1);
            mbarrier_init(memory.scores_empty[i], 1);
        }
        mbarrier_init(memory.p_full, 4);
        mbarrier_init(memory.p_empty, 4);
        fence_mbarrier_init();
        for (int half = 0; half < 2; ++half) job.load_q(job.first, half);
    }
    cluster_sync();
    const int group = static_cast<int>(threadIdx.x) / warpgroup;
    if (group < 2) {
        take_registers<consumer_registers>();
        job.find_counting();
        group == 0 ? own(Worker{job, 0}) : help(Worker{job, 1});
        if (threadIdx.x % warpgroup == 0) bulk_wait<0>();
    } else {
        give_back_registers<converter_registers>();
        cached_tiles::ColumnConverter<stages, Job>(job).run(memory.tile, memory.full, memory.empty,
                                                            memory.counts_known);
    }
    cluster_sync();  // nobody sends to a block that has ended
}

}  // namespace

std::string sparse_decode_level_10_declines(const SparseDecode& call) {
    const std::string why = sparse_decode_level_7_declines(call);
    if (!why.empty()) return why;
    if (call.H <= heads)
        return sentence("two blocks have ", heads, " heads each of a query; there are ", call.H);
    return {};
}

std::int64_t sparse_decode_workspace_10(const SparseDecode& call) {
    Arena arena;
    Parts(Cut(call).splits, call.rows * call.H, arena);
    return arena.bytes();
}

void sparse_decode_level_10(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_10(call));
    if (call.rows == 0) return;
    const Cut cut(call);
    Arena arena(call.workspace);
    const Parts parts(cut.splits, call.rows * call.H, arena);
    launch("sparse_decode_columns_split", attend,
           {.blocks = cut.clusters * 2,
            .threads = threads,
            .shared_bytes = sizeof(Memory),
            .stream = call.stream,
            .cluster = 2},
           call.kv_pages, call.indices, call.slots, call.result, parts, cut,
           matrix_map("q", call.q, call.rows * call.H, d, d, heads, panel_columns, wide),
           matrix_map("q", call.q, call.rows * call.H, d, d, heads, cached_tiles::own_rotated, Swizzle::bytes_64),
           cut.splits == 1 ? heads_map(call.result.out, call.rows, call.H)
                           : heads_map(parts.out, call.rows * cut.splits, call.H));
    if (cut.splits > 1) add_parts<true, true>(parts, call.result, call.rows, call.H, cut.splits, call.stream);
}

}  // namespace dsa
