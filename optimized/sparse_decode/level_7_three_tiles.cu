// Level 7. Blocks of levels 4 to 6 score, make the softmax and weigh one after the other. Here three tiles of 48
// tokens are in shared memory, and p v of one goes on beside the softmax of the next (attention/three_tiles.cuh);
// blocks stay, a cluster of two takes query after query.
#include "optimized/attention/adding.cuh"
#include "optimized/attention/distinct.cuh"
#include "optimized/hopper/dependent.h"
#include "optimized/hopper/registers.h"
#include "optimized/sparse_decode/converter.cuh"
#include "optimized/sparse_decode/op.h"
#include "optimized/support/ladder.h"

namespace dsa {
namespace {

using namespace latent_tile;

constexpr int threads = 4 * warpgroup;
constexpr int kept_panels = 4;
constexpr int producer_registers = 72, scorer_registers = 120, weigher_registers = 160;
constexpr int most_items = 8;  // of a block: it finds all their counting slots when it begins
#if defined(DSA_SIMULATOR)
constexpr int multiprocessors = 4;  // small cases shall give a block several items and split some
#else
constexpr int multiprocessors = 132;
#endif
constexpr int most_slots = 2048;                                 // level 5 takes no more
using Selecting = DistinctSlots<2 * warpgroup, most_slots, 12>;  // the weighers

struct Counts {
    std::uint32_t of[most_slots / 32 + 1];  // a bit a slot: does it count? And nothing past the last.
};
struct Memory {
    ThreeTiles<kept_panels> tiles;
    Counts counts[most_items];
    Mbarrier counts_known;
    Mbarrier received[stages];  // the other block has all that this one sent it of an item, three items in turn
};
static_assert(sizeof(Selecting::Table) <= sizeof(TileOf48));

// How a call is cut into items: (query, 64 heads a block of the cluster, part of the selection).
struct Cut {
    int rows, H, k;  // rows: B s_q
    int blocks;      // of a cluster, which share their tokens
    int bunches;     // of 64 blocks heads, a query
    int splits, tiles_each, all_tiles;
    int items, clusters;  // a cluster takes every clusters-th item

    explicit Cut(const SparseDecode& call)
        : rows(static_cast<int>(call.rows)), H(static_cast<int>(call.H)), k(static_cast<int>(call.k)) {
        const auto groups = static_cast<int>(blocks_for(call.H, heads));
        blocks = groups % 2 == 0 ? 2 : 1;
        bunches = groups / blocks;
        all_tiles = static_cast<int>(std::max<std::int64_t>(1, blocks_for(call.k, tile_keys)));
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
        const int places = multiprocessors / blocks;
        const int waves = std::max(1, (items + places * most_items - 1) / (places * most_items));
        const int each = std::max(1, (items + places * waves - 1) / (places * waves));
        clusters = (items + each - 1) / each;
    }
    // Microseconds on an H100.
    double predicted(int count, int each) const {
        constexpr double beginning = 5, a_tile = 1.5, storing = 3, adding = 3, bytes_a_us = 3e6;
        const int places = multiprocessors / blocks;
        const double rounds = (rows * bunches * count + places - 1) / places;
        const double time = beginning + rounds * a_tile * each;
        if (count == 1) return time;
        return time + rounds * storing + adding + 2.0 * rows * H * count * d_v * 4 / bytes_a_us;
    }
    __device__ int query(int item) const { return item / (bunches * splits); }
    __device__ int split(int item) const { return item % splits; }
    __device__ int first_head(int item) const {
        return (item / splits % bunches * blocks + (blocks == 1 ? 0 : cluster_rank())) * heads;
    }
    __device__ int first_tile(int item) const { return split(item) * tiles_each; }
    __device__ int tiles(int item) const { return min(tiles_each, all_tiles - first_tile(item)); }
};

// Which keys of an item's tiles count, 48 bits each.
struct Keys {
    Memory& memory;
    const std::uint32_t* counts;
    const int first_tile;
    __device__ static void ask(int) {}
    __device__ void valid(int tile, std::uint32_t (&words)[2]) const {
        if (tile == 0) mbarrier_wait(memory.counts_known, 0);  // told by the other block, too
        const int bit = (first_tile + tile) * tile_keys;
        const std::uint32_t low = counts[bit / 32], high = counts[bit / 32 + 1];
        words[0] = bit % 32 == 0 ? low : low >> 16 | high << 16;
        words[1] = (bit % 32 == 0 ? high : high >> 16) | 0xffff0000U;
    }
};

// What the warpgroups are told of the call.
template <int blocks>
struct Job {
    static constexpr bool copied_by_threads = false;
    Memory& memory;
    const TensorMap& out;
    const bf16* q;
    const std::uint8_t* pages;
    const std::int32_t* indices;  // [rows, k]
    const std::int64_t cache_slots;
    const AttentionResult& result;
    const Parts& parts;
    const Cut& cut;
    const float scale = result.scale;
    const int rows_of_q = cut.rows * cut.H;
    const int items = cut.items, first = static_cast<int>(blockIdx.x) / blocks, stride = cut.clusters;

    __device__ int tiles(int item) const { return cut.tiles(item); }
    __device__ int first_row(int item) const { return cut.query(item) * cut.H + cut.first_head(item); }
    __device__ int round(int item) const { return (item - first) / stride; }
    __device__ const std::int32_t* row(int item) const { return indices + std::int64_t{cut.query(item)} * cut.k; }
    __device__ cached_tiles::Part part(int item) const {
        const int first_slot = cut.first_tile(item) * tile_keys;
        return {row(item) + first_slot, cut.k - first_slot};
    }
    __device__ Keys keys(int item) const { return {memory, memory.counts[round(item)].of, cut.first_tile(item)}; }

    // The weighers, before the first tile: which slots of all of this block's items count. Two blocks of a cluster,
    // whose items have the same slots, find out about every second one each and tell the other.
    __device__ void find_counting() const {
        const int thread = static_cast<int>(threadIdx.x) % (2 * warpgroup);
        auto& table = *reinterpret_cast<Selecting::Table*>(&memory.tiles.tile[stages - 1]);
        for (int item = first, i = 0; item < items; item += stride, ++i) {
            if (blocks == 2 && i % 2 != cluster_rank()) continue;
            Counts& counts = memory.counts[i];
            const auto tell = [&](int at, std::uint32_t found) {
                counts.of[at / 32] = found;
                if constexpr (blocks == 2) *of_block(&counts.of[at / 32], cluster_rank() ^ 1) = found;
            };
            const int end = min(cut.k, (cut.first_tile(item) + tiles(item)) * tile_keys);
            Selecting::find_counting(table, row(item), end, cache_slots, thread, selection_barrier, tell);
            if (thread == 0) tell(most_slots, 0);
        }
        cached_tiles::tell_cluster<blocks>(memory.counts_known);
    }

    // The last tile has come. Maximum (of natural logits) and sum of a row are the part's, or what the row's sums are
    // multiplied by follows.
    __device__ void conclude(const RunningSoftmax& softmax, int item, float (&one_over)[heads]) const {
        if (blocks == 2 && threadIdx.x % warpgroup == 0)
            mbarrier_arrive_at_relaxed(memory.received[round(item) % stages], cluster_rank() ^ 1);
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            const float sum = softmax.total(row);
            if (lane_id() % 4 != 0) continue;
            const int r = wgmma_row(static_cast<int>(threadIdx.x), 2 * row), head = cut.first_head(item) + r;
            one_over[r] = 0.0F;
            if (head >= cut.H) continue;
            // Where all logits are NaN there is no maximum; nor is the row empty.
            const float maximum = sum != sum ? sum : softmax.reference[row] * scale;
            const std::int64_t at = first_row(item) + r;
            if (cut.splits > 1) {
                parts.maximum[at * cut.splits + cut.split(item)] = maximum;
                parts.sum[at * cut.splits + cut.split(item)] = sum;
                continue;
            }
            if (maximum != minus_infinity()) one_over[r] = 1.0F / denominator(result, head, maximum, sum);
            result.lse[at] = told_lse(result, maximum, sum);
        }
    }
    __device__ void leave(int item, int half, const Sums& sums, const float (&one_over)[2],
                          unsigned char* place) const {
        if (blocks == 2)  // half of the place is still being sent
            mbarrier_wait_in_block(memory.received[round(item) % stages], round(item) / stages % 2);
        if (cut.splits == 1)
            leave_result(out, cut.query(item), cut.first_head(item), half, sums, one_over, place);
        else
            leave_sums(out, cut.split(item) * cut.rows + cut.query(item), cut.first_head(item), half, sums, place);
    }
    __device__ static void release(Mbarrier& empty) { cached_tiles::release<blocks>(empty); }
};

// Block: one of a cluster of `blocks`, which have the same tokens.
template <int blocks>
__global__ void __launch_bounds__(threads, 1)
    attend(const bf16* q, const std::uint8_t* pages, const std::int32_t* indices, std::int64_t cache_slots,
           AttentionResult result, Parts parts, Cut cut, const __grid_constant__ TensorMap q_map,
           const __grid_constant__ TensorMap out_map) {
    let_next_kernel_start();
    auto& memory = shared<Memory>();
    const Job<blocks> job{memory, out_map, q, pages, indices, cache_slots, result, parts, cut};
    using Producer = cached_tiles::Converter<blocks, Memory, Job<blocks>>;
    if (threadIdx.x == 0) {
        mbarrier_init(memory.counts_known, 8 * blocks);
        for (Mbarrier& barrier : memory.received) mbarrier_init(barrier, 1);
        memory.tiles.init(Producer::arrivals, blocks);
    }
    if constexpr (blocks == 1)
        __syncthreads();
    else
        cluster_sync();
    const int group = static_cast<int>(threadIdx.x) / warpgroup;
    // Weighers first: they are warps 0 to 7, an even number of warpgroups, which ask for the selection together.
    if (group < 2) {
        take_registers<weigher_registers>();
        job.find_counting();
        weigh_tiles(memory.tiles, job, group);
    } else if (group == 2) {
        give_back_registers<scorer_registers>();
        score_tiles(memory.tiles, job, q_map);
    } else {
        give_back_registers<producer_registers>();
        Producer(memory, job).run();
    }
    if constexpr (blocks > 1) cluster_sync();  // nobody sends to a block that has ended
}

struct Scratch {
    Parts parts;
    Scratch(const Cut& cut, Arena& arena) : parts(cut.splits, std::int64_t{cut.rows} * cut.H, arena) {}
};

template <int blocks>
void start(const SparseDecode& call, const Cut& cut, const Parts& parts) {
    const TensorMap q = matrix_map("q", call.q, call.rows * call.H, d, d, heads, panel_columns, wide);
    const TensorMap out = cut.splits == 1 ? heads_map("out", call.result.out, call.rows, call.H)
                                          : heads_map("the workspace", parts.out, call.rows * cut.splits, call.H);
    launch("sparse_decode_three_tiles", attend<blocks>,
           {.blocks = cut.clusters * blocks,
            .threads = threads,
            .shared_bytes = sizeof(Memory),
            .stream = call.stream,
            .cluster = blocks},
           call.q, call.kv_pages, call.indices, call.slots, call.result, parts, cut, q, out);
}

}  // namespace

std::string sparse_decode_level_7_declines(const SparseDecode& call) {
    const std::string why = sparse_decode_level_5_declines(call);
    if (!why.empty()) return why;
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() / most_parts;
    if (call.rows * (call.H + 2 * heads) > most)
        return sentence("B s_q H must be below 2^31 / ", most_parts, "; it is ", call.rows * call.H);
    if (call.slots == 0) return "a cache without pages has no token to stand for those that are none";
    if (!(call.result.scale > 0)) return sentence("the scale must be positive; it is ", call.result.scale);
    return {};
}

std::int64_t sparse_decode_workspace_7(const SparseDecode& call) {
    Arena arena;
    const Scratch scratch(Cut(call), arena);
    return arena.bytes();
}

void sparse_decode_level_7(const SparseDecode& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_decode_workspace_7(call));
    if (call.rows == 0 || call.H == 0) return;
    const Cut cut(call);
    Arena arena(call.workspace);
    const Scratch scratch(cut, arena);
    cut.blocks == 2 ? start<2>(call, cut, scratch.parts) : start<1>(call, cut, scratch.parts);
    if (cut.splits > 1) add_parts<true, true>(scratch.parts, call.result, call.rows, call.H, cut.splits, call.stream);
}

}  // namespace dsa
