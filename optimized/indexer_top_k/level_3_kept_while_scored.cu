// Level 3. indexer_logits' level 4, which keeps what may still be among the best instead of writing scores; then a
// block a query chooses. Bound: FLOPs, as indexer_logits.
#include "optimized/indexer_logits/ring_levels.cuh"
#include "optimized/indexer_top_k/best_of_rest.cuh"
#include "optimized/indexer_top_k/best_of_runs.cuh"
#include "optimized/indexer_top_k/columns.cuh"
#include "optimized/indexer_top_k/guess.cuh"

namespace dsa {
namespace {

template <class S>
struct KeepingMemory : RingMemory<S, true> {
    CutMemory<S> cuts[consumers];
};

// Whose a group's runs are. One thread.
template <class S, class Memory, class Problem>
__device__ void tell_runs(const Memory& memory, const Problem& problem, const RunLists& lists) {
    Walk<S> walk(memory);
    for (Run run; walk.next(problem, run);) {
        const Tiles tiles = tiles_of<S>(problem, run.group);
        if (run.begin == tiles.begin) lists.first_block[run.group] = static_cast<std::int32_t>(blockIdx.x);
        if (run.end == tiles.end) lists.last_block[run.group] = static_cast<std::int32_t>(blockIdx.x);
    }
}

template <class S, class Problem>
__global__ void __launch_bounds__(ring_threads, 1)
    indexer_top_k_ring(__grid_constant__ const Problem problem, __grid_constant__ const RunLists lists) {
    auto& memory = shared<KeepingMemory<S>>();
    if (threadIdx.x < consumers) {
        CutMemory<S>& cut = memory.cuts[threadIdx.x];
        cut.zero = 0;
        for (std::uint32_t& fullest : cut.fullest) fullest = 0;
    }
    begin_ring<S>(memory, problem);
    const int warpgroup = uniform_warpgroup();
    if (warpgroup == 0) {
        give_back_registers<producer_registers>();
        if (warp_id() == 0 && elect_one()) produce<S>(memory, problem);
        if (warp_id() == 1 && elect_one()) tell_runs<S>(memory, problem, lists);
        __syncwarp();
    } else {
        take_registers<consumer_registers>();
        KeepCandidates<S, Problem> take(problem, lists, memory.cuts[warpgroup - 1]);
        consume<S, Relu::by_predicate>(memory, problem, warpgroup - 1, take);
    }
}

// All groups, or those that a guess has spoilt.
template <class S>
struct KeptRows : MappedRows<S> {
    const std::int32_t* again;  // null: all
    __device__ Seen seen(std::int64_t t) const {
        if (again != nullptr && again[static_cast<std::uint32_t>(t) / (consumers * S::queries)] == 0) return {0, 0};
        return MappedRows<S>::seen(t);
    }
};

template <int heads, int row_bytes>
void run_ring(const IndexerTopK& call, const LevelThree& all, bool again) {
    if (all.blocks == 0) return;
    using S = Scores<heads, row_bytes, 256 / heads, Columns::by_lane>;
    using Problem = Float32Scores<KeptRows<S>>;
    RunLists lists = all.lists;
    if (again) lists.guesses = nullptr;
    const Problem rows{{mapped_rows<S>(call.scoring), again ? lists.again : nullptr}};
    launch("indexer_top_k_ring", indexer_top_k_ring<S, Problem>,
           {.blocks = all.blocks,
            .threads = ring_threads,
            .shared_bytes = sizeof(KeepingMemory<S>),
            .stream = call.scoring.stream},
           rows, lists);
}

// Scores of a sample of the keys, and what they tell of all.
void guess_from_sample(const IndexerTopK& call, const LevelThree& all) {
    const Sample& sample = all.sample;
    const std::int64_t groups = blocks_for(call.scoring.T, all.queries);
    launch("take_sample", take_sample,
           {.blocks = blocks_at_work, .threads = guessing_threads, .stream = call.scoring.stream}, call.scoring,
           sample, all.lists.again, groups);
    IndexerLogits scoring = call.scoring;
    scoring.k = sample.k;
    scoring.k_scale = sample.k_scale;
    scoring.start = sample.start;
    scoring.end = sample.end;
    scoring.S = sampled;
    scoring.logits = sample.logits;
    indexer_logits_level_6(scoring);
    launch("guess", guess,
           {.blocks = blocks_for(call.scoring.T, guessed_at_once),
            .threads = guessing_threads,
            .stream = call.scoring.stream},
           call, sample);
}

template <int heads, int row_bytes>
void start(const IndexerTopK& call) {
    const LevelThree all = level_three(call);
    if (all.samples) guess_from_sample(call, all);
    run_ring<heads, row_bytes>(call, all, false);
    launch("best_of_runs", best_of_runs,
           {.blocks = call.scoring.T,
            .threads = choosing_threads,
            .shared_bytes = sizeof(HoldingMemory),
            .stream = call.scoring.stream},
           call, all.lists, static_cast<std::uint32_t>(all.queries));
    if (all.samples) run_ring<heads, row_bytes>(call, all, true);
    launch("best_of_rest", best_of_rest,
           {.blocks = std::min(call.scoring.T, 2 * blocks_at_work),
            .threads = choosing_threads,
            .shared_bytes = sizeof(ChoosingMemory),
            .stream = call.scoring.stream},
           call, all.lists, static_cast<std::uint32_t>(all.queries));
}

template <int row_bytes>
void start(const IndexerTopK& call) {
    if (call.scoring.H_I <= 32) return start<32, row_bytes>(call);
    start<64, row_bytes>(call);
}

}  // namespace

std::int64_t indexer_top_k_workspace_3(const IndexerTopK& call) {
    IndexerTopK nowhere = call;
    nowhere.workspace = nullptr;
    return level_three(nowhere).bytes;
}

std::string indexer_top_k_level_3_declines(const IndexerTopK& call) {
    const std::string why = indexer_logits_level_6_declines(call.scoring);
    constexpr std::int64_t most_k = 1 << 20;
    // Level 4 rounds them; it would be as many kernels again here, and this is the slowest file to compile.
    if (why.empty() && call.scoring.bf16_scores) return "scores must be float32; they are rounded to bf16";
    if (why.empty() && call.k > most_k)
        return sentence("there is room for a k of up to ", most_k, "; it is ", call.k);
    return why;
}

void indexer_top_k_level_3(const IndexerTopK& call) {
    if (call.scoring.T == 0) return;
    if (call.scoring.D_I == 64) start<64>(call);
    if (call.scoring.D_I == 128) start<128>(call);
}

}  // namespace dsa
