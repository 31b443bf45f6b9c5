// Level 2. A block's 4 queries pass over the same keys, which the tensor cores score; then each of its 4 warps
// appends for one of them. Bound: FLOPs of the tensor cores, as indexer_logits.
#include "optimized/indexer_logits/tensor_cores.cuh"
#include "optimized/indexer_top_k/candidates.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int digit_bits = 11;
constexpr int queries = scoring_warps;

template <int row_bytes>
struct Shared {
    ScoringShared<row_bytes> scoring;
    float scores[queries][keys_of_a_tile];
    SelectShared<digit_bits> select;
    Kept kept[queries];
};

// The part of a query's candidates that lies in the tile from s_0 on.
__device__ Range within_tile(const Range& range, std::int64_t s_0) {
    return {max(range.begin, s_0), min(range.end, s_0 + keys_of_a_tile)};
}

template <int row_bytes, class Problem>
__global__ void __launch_bounds__(scoring_threads)
    indexer_top_k_tensor_cores(__grid_constant__ const Problem problem, __grid_constant__ const IndexerTopK call,
                               Candidate* all_candidates, std::int64_t room) {
    auto& memory = shared<Shared<row_bytes>>();
    const std::int64_t group = blockIdx.x;
    const std::int64_t first = problem.first_query(group);
    const auto count = static_cast<int>(problem.last_query(group) - first);
    std::int64_t begin = problem.S(), end = 0;  // what any of them sees
    for (int i = 0; i < count; ++i) {
        const Range range = problem.range(first + i);
        if (range.begin >= range.end) continue;
        begin = min(begin, range.begin);
        end = max(end, range.end);
    }
    if (static_cast<int>(threadIdx.x) < queries) memory.kept[threadIdx.x] = none_kept();
    for (std::int64_t s_0 = begin; s_0 < end; s_0 += keys_of_a_tile) {
        const KeysInRegisters<row_bytes> keys = bring_keys(memory.scoring, problem, group, s_0);
        for (int i = 0; i < count; ++i) {
            const Range part = within_tile(problem.range(first + i), s_0);
            if (part.begin >= part.end) continue;
            const HeadSums sums = head_sums(memory.scoring, problem, first + i, keys);
            if (lane_id() % 4 != 0) continue;
#pragma unroll
            for (int tile = 0; tile < 2; ++tile)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int key = key_of_sum(tile, half);
                    if (s_0 + key < problem.S())
                        memory.scores[i][key] =
                            problem.score(sums.of[tile][half], problem.key_scale(group, s_0 + key));
                }
        }
        __syncthreads();
        for (int i = 0; i < count; ++i)
            make_room(memory.select, call, all_candidates + (first + i) * room, memory.kept[i], room, keys_of_a_tile);
        // All warps have seen how many are kept before one of them keeps more.
        __syncthreads();
        const int mine = warp_id();
        const Range part = mine < count ? within_tile(problem.range(first + mine), s_0) : Range{0, 0};
        if (part.begin < part.end)
            append(all_candidates + (first + mine) * room, memory.kept[mine],
                   memory.scores[mine] + (part.begin - s_0), static_cast<int>(part.end - part.begin), part.begin);
        __syncthreads();
    }
    __syncthreads();
    for (int i = 0; i < count; ++i)
        write_row(memory.select, call, first + i, all_candidates + (first + i) * room, memory.kept[i]);
}

template <int row_bytes, class Problem>
void start(const IndexerTopK& call, const Problem& problem) {
    launch("indexer_top_k_tensor_cores", indexer_top_k_tensor_cores<row_bytes, Problem>,
           {.blocks = blocks_for(call.scoring.T, queries),
            .threads = scoring_threads,
            .shared_bytes = sizeof(Shared<row_bytes>),
            .stream = call.scoring.stream},
           problem, call, static_cast<Candidate*>(call.workspace), room_for_candidates(call));
}

}  // namespace

std::string indexer_top_k_level_2_declines(const IndexerTopK& call) {
    return indexer_logits_level_2_declines(call.scoring);
}

void indexer_top_k_level_2(const IndexerTopK& call) {
    const IndexerLogits& scoring = call.scoring;
    if (scoring.q != nullptr && scoring.D_I == 64) start<64>(call, rows_of_e4m3(scoring, queries));
    if (scoring.q != nullptr && scoring.D_I == 128) start<128>(call, rows_of_e4m3(scoring, queries));
    if (scoring.q == nullptr && scoring.D_I == 64) start<128>(call, rows_of_bf16(scoring, queries));
    if (scoring.q == nullptr && scoring.D_I == 128) start<256>(call, rows_of_bf16(scoring, queries));
}

}  // namespace dsa
