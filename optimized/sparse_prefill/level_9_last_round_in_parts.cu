// Level 9. Levels 6 and 8 do items in rounds, one a multiprocessor, and the last round takes as long as any, however
// few its items are: eight of 132 at T = 4096 and 128 heads. Here the selections of its queries are cut: each block
// has some tiles of one, on multiprocessors that the rounds before have left, and a kernel adds the parts
// (attention/adding.cuh). A call of few queries is such a round.
#include "optimized/attention/adding.cuh"
#include "optimized/hopper/dependent.h"
#include "optimized/sparse_prefill/selection.cuh"
#include "optimized/support/arena.h"
#include "optimized/support/ladder.h"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

using namespace latent_tile;

#if defined(DSA_SIMULATOR)
constexpr int of_a_round = 4, most_blocks = 8;  // so that several queries may be left
constexpr double cutting = 0;                   // small cases shall be cut
#else
constexpr int of_a_round = multiprocessors, most_blocks = multiprocessors;
constexpr double cutting = 15.5;
#endif

bool has_few_heads(const SparsePrefill& call) { return sparse_prefill_level_8_declines(call).empty(); }

// How many queries are done whole, and in how many parts the others: what a simple model of the time, in
// microseconds, likes best (notes.md).
struct Cut {
    std::int64_t whole;
    int parts = 1, tiles_each = 0;

    explicit Cut(const SparsePrefill& call) : whole(call.T) {
        const std::int64_t groups = blocks_for(call.H, heads);
        if (groups == 0) return;
        const std::int64_t of_rounds = call.T * groups / of_a_round * of_a_round / groups;  // queries
        const std::int64_t items = (call.T - of_rounds) * groups;
        if (items == 0) return;
        const auto tiles = static_cast<int>(blocks_for(call.k, in_turn::tile_keys));
        constexpr double a_tile = 0.85, for_a_block = 0.002, a_row = 0.0005, a_part_of_a_row = 0.0008;
        const auto rows = static_cast<double>((call.T - of_rounds) * call.H);
        double least = tiles * (has_few_heads(call) ? 0.75 + 0.0125 * static_cast<double>(call.H) : 1.25);
        for (int each = 2; each < tiles; ++each) {
            const int count = (tiles + each - 1) / each;
            const std::int64_t blocks = items * count;
            const double time = cutting + each * (a_tile + for_a_block * static_cast<double>(blocks)) +
                                rows * (a_row + a_part_of_a_row * count);
            if (blocks > most_blocks || count > most_parts || time >= least) continue;
            least = time;
            whole = of_rounds;
            parts = count;
            tiles_each = each;
        }
    }
};

// The first of a call's queries, and the others.
SparsePrefill first_of(SparsePrefill call, std::int64_t queries) {
    call.T = queries;
    return call;
}
SparsePrefill rest_of(SparsePrefill call, std::int64_t queries) {
    const std::int64_t rows = queries * call.H;
    call.q += rows * d;
    call.indices += queries * call.k;
    call.result.out += rows * d_v;
    call.result.lse += rows;
    if (call.result.max_logit != nullptr) call.result.max_logit += rows;
    call.T -= queries;
    return call;
}

// What becomes of an item of which a block has a part (blockIdx.y): float32 sums under its largest logit, behind
// which the reference may lag, that logit, and the sum.
struct PartOfItem {
    static constexpr bool several = false;
    const Work& work;
    const Parts& parts;
    const TensorMap& sums_map;
    int of_item;

    __device__ int tiles() const { return of_item; }
    __device__ float divisor(const in_turn::SeldomSoftmax& softmax, int, int i) const {
        const float above = softmax.largest[i] - softmax.reference[i];
        return softmax.reference[i] == minus_infinity() ? 1.0F : exp2_of(above * (work.result.scale * one_over_ln2));
    }
    // Through this warpgroup's halves of all places: nothing comes after the part's last tile, which is n.
    __device__ void store(in_turn::Shared& memory, int item, int half, unsigned n, in_turn::Sums& out) const {
        constexpr int panel_bytes = static_cast<int>(sizeof(Panel)), there = in_turn::of_a_half / panel_bytes;
        constexpr int columns = row_bytes / static_cast<int>(sizeof(float)), count = d_v / 2 / columns;
        static_assert(count <= in_turn::stages * there);
        const int thread = static_cast<int>(threadIdx.x), row = wgmma_row(thread, 0), warp = warp_id() % 4;
        const float* end = in_turn::end_of(memory, n);
        in_turn::multiply(out, {1.0F / end[row], 1.0F / end[row + 8]});
        barrier_sync(in_turn::scorers_barrier + half, warpgroup);  // all its warps have weighed v
        const int query = work.query(item), head = work.first_head(item) + warp * in_turn::rows_of_a_warp;
        if (head >= work.H) return;
#pragma unroll
        for (int panel = 0; panel < count; ++panel) {
            unsigned char* to =
                memory.tile[panel / there].at + half * in_turn::of_a_half + panel % there * panel_bytes;
            store_sums<columns / 2>(out, panel * (columns / 2), to);
            fence_proxy_async_shared();
            __syncwarp();
            if (elect_one())
                tma_store(sums_map,
                          {half * (d_v / 2) + panel * columns, head, static_cast<int>(blockIdx.y) * work.T + query},
                          to + warp * in_turn::of_a_warp);
        }
    }
    __device__ void tell_rows(const in_turn::SeldomSoftmax& softmax, int item) const {
        const int i = lane_id() % 4;
        if (i >= 2) return;
        const int r = wgmma_row(static_cast<int>(threadIdx.x), 2 * i);
        if (work.first_head(item) + r >= work.H) return;
        const std::int64_t at = std::int64_t{work.first_row(item) + r} * gridDim.y + blockIdx.y;
        parts.maximum[at] = (i == 0 ? softmax.largest[0] : softmax.largest[1]) * work.result.scale;
        parts.sum[at] =
            i == 0 ? softmax.sum[0] / divisor(softmax, item, 0) : softmax.sum[1] / divisor(softmax, item, 1);
    }
};

struct Shared {
    in_turn::Shared tiles;
    in_turn::Selection::InShared selection;
};

// Block (item; part of its selection).
__global__ void __launch_bounds__(in_turn::threads, 1)
    attend_parts(Work work, const std::int32_t* indices, std::int64_t S, int tiles_each, Parts parts,
                 const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap sums) {
    let_next_kernel_start();
    auto& memory = shared<Shared>();
    in_turn::prepare(memory.tiles);
    const int job = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x) / warpgroup, 0);
    const int first = static_cast<int>(blockIdx.y) * tiles_each;
    const int tiles = max(2, min(tiles_each, in_turn::tiles_of(work) - first));
    if (job == 0) {
        give_back_registers<in_turn::of_a_gatherer>();
        in_turn::gather(
            memory.tiles, work, tiles,
            in_turn::Selection(memory.tiles, memory.selection, work, indices, S, first * in_turn::tile_keys));
        // Nothing of the whole rounds is read here, but who waits for this kernel waits for both.
        wait_for_previous_kernel();
    } else {
        take_registers<in_turn::of_a_scorer>();
        in_turn::score_and_weigh(memory.tiles, work, q, PartOfItem{work, parts, sums, tiles}, job - 1);
    }
}

Parts parts_of(const SparsePrefill& call, const Cut& cut, Arena& arena) {
    return {cut.parts, (call.T - cut.whole) * call.H, arena};
}

}  // namespace

std::string sparse_prefill_level_9_declines(const SparsePrefill& call) {
    return has_few_heads(call) ? std::string() : sparse_prefill_level_6_declines(call);
}

std::int64_t sparse_prefill_workspace_9(const SparsePrefill& call) {
    Arena arena;
    parts_of(call, Cut(call), arena);
    return arena.bytes();
}

void sparse_prefill_level_9(const SparsePrefill& call) {
    require_workspace(call.workspace, call.workspace_bytes, sparse_prefill_workspace_9(call));
    const Cut cut(call);
    const auto whole = has_few_heads(call) ? sparse_prefill_level_8 : sparse_prefill_level_6;
    if (cut.parts == 1) return whole(call);
    const SparsePrefill rest = rest_of(call, cut.whole);
    Arena arena(call.workspace);
    const Parts parts = parts_of(call, cut, arena);
    const Work work = work_of(rest, nullptr);
    const TensorMap q = matrix_map("q", rest.q, rest.T * rest.H, d, d, heads, panel_columns, wide);
    const TensorMap sums = heads_map("the workspace", parts.out, rest.T * cut.parts, rest.H, in_turn::rows_of_a_warp);
    whole(first_of(call, cut.whole));
    launch("sparse_prefill_attend_parts", attend_parts,
           {.blocks = work.items,
            .threads = in_turn::threads,
            .shared_bytes = sizeof(Shared),
            .stream = call.stream,
            .blocks_y = cut.parts,
            .overlaps_previous = cut.whole > 0},
           work, rest.indices, rest.S, cut.tiles_each, parts, q, sums);
    constexpr int adders = 5;  // on a multiprocessor, by their registers
    const int beside = std::max(0, multiprocessors - work.items * cut.parts) * adders;
    add_parts<true, true>(parts, rest.result, rest.T, rest.H, cut.parts, call.stream, beside);
}

}  // namespace dsa
