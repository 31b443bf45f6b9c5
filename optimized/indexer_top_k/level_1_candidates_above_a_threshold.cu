// Level 1. Bound: FLOPs, as indexer_logits; what it saves is the logits' way to memory and back, 8 bytes a (query,
// key).
#include "optimized/indexer_logits/one_thread_a_key.cuh"
#include "optimized/indexer_top_k/candidates.cuh"
#include "optimized/support/launch.h"

namespace dsa {
namespace {

constexpr int digit_bits = 8;

struct Shared {
    QueryInShared query;
    float scores[keys_of_a_block];
    SelectShared<digit_bits> select;
    Kept kept;
};

template <class Problem>
__global__ void __launch_bounds__(keys_of_a_block)
    indexer_top_k_query(__grid_constant__ const Problem problem, __grid_constant__ const IndexerTopK call,
                        Candidate* all_candidates, std::int64_t room) {
    Shared& memory = shared<Shared>();
    const std::int64_t t = blockIdx.x;
    Candidate* candidates = all_candidates + t * room;  // [room]
    const Range range = problem.range(t);
    if (threadIdx.x == 0) memory.kept = none_kept();
    __syncthreads();
    for (std::int64_t s_0 = range.begin; s_0 < range.end; s_0 += keys_of_a_block) {
        const std::int64_t s = s_0 + threadIdx.x;
        const bool is_candidate = s < range.end;
        const float sum = head_sum(memory.query, problem, t, is_candidate ? problem.key(t, s) : nullptr);
        if (is_candidate) memory.scores[threadIdx.x] = problem.score(sum, problem.key_scale(t, s));
        make_room(memory.select, call, candidates, memory.kept, room, keys_of_a_block);
        __syncthreads();
        const auto count = static_cast<int>(min(range.end - s_0, std::int64_t{keys_of_a_block}));
        if (warp_id() == 0) append(candidates, memory.kept, memory.scores, count, s_0);
        __syncthreads();
    }
    write_row(memory.select, call, t, candidates, memory.kept);
}

template <class Problem>
void start(const IndexerTopK& call, const Problem& problem) {
    launch("indexer_top_k_query", indexer_top_k_query<Problem>,
           {.blocks = call.scoring.T,
            .threads = keys_of_a_block,
            .shared_bytes = sizeof(Shared),
            .stream = call.scoring.stream},
           problem, call, static_cast<Candidate*>(call.workspace), room_for_candidates(call));
}

}  // namespace

void indexer_top_k_level_1(const IndexerTopK& call) {
    if (call.scoring.q != nullptr)
        start(call, rows_of_e4m3(call.scoring, 1));
    else
        start(call, rows_of_bf16(call.scoring, 1));
}

}  // namespace dsa
