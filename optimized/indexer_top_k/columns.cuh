// What a consumer of score_ring.cuh does with scores instead of writing them: each thread appends what exceeds its
// query's threshold to a column of its own, so that nobody asks for a slot. When a column is full the warpgroup cuts:
// of each query the k best stay, and not many more, dealt out over the columns anew, and what they all reach becomes
// the threshold. A later score must exceed it, since of equals the earlier one wins. So nothing is ever lost, and
// what the lists hold depends on no schedule, but for the order.
#pragma once

#include "optimized/hopper/barrier.h"
#include "optimized/hopper/warp.h"
#include "optimized/indexer_logits/score_ring.cuh"
#include "optimized/indexer_top_k/run_lists.h"
#include "optimized/top_k/in_registers.cuh"

namespace dsa {

// Higher is better, and no two are equal: of equal scores the lower position is better.
__device__ inline std::uint64_t rank_of(const Scored& mine) {
    return std::uint64_t{key_of(mine.score)} << 32 | ~static_cast<std::uint32_t>(mine.position);
}

// The search for a query's k-th best rank: it lies among the 2^bits from `low` on.
struct RankSearch {
    std::uint64_t low;
    int bits;
    int is_over;  // no more than there is room for have a rank of at least `low`
};

template <class S>
struct CutMemory {
    static constexpr int digit_bits = S::queries <= 8 ? 8 : 7;
    static constexpr int bins = 1 << digit_bits;
    std::uint32_t counts[S::queries][bins];
    std::uint32_t beyond[S::queries];  // ranks above those that the bins cover
    RankSearch search[S::queries];
    std::uint32_t kept[S::queries];
    std::int32_t first_nan[S::queries];
    int is_full[2];  // the number of the look at which a column was: looks take turns
};

template <class S, class Problem>
class KeepCandidates {
   public:
    static constexpr int own = S::queries / 4;  // a thread's queries
    using Memory = CutMemory<S>;

    __device__ KeepCandidates(const Problem& problem, const RunLists& lists, Memory& memory, int consumer)
        : problem_(problem), lists_(lists), memory_(memory), consumer_(consumer) {}

    __device__ void begin(int group, int t_0, int t_end) {
        group_ = group;
        queries_.begin(problem_, t_0, t_end);
#pragma unroll
        for (int a = 0; a < own; ++a) {
            next_[a] = column(a);
            // Every score exceeds a NaN; where there is no query, nothing exceeds the threshold.
            threshold_[a] = __uint_as_float(queries_.is_there(a) ? 0xffffffffU : 0x7f800000U);
            if (queries_.is_there(a) && lists_.guesses != nullptr)
                threshold_[a] = lists_.guesses[queries_.t_0 + S::query(a)];
        }
        if (thread() >= S::queries) return;
        memory_.first_nan[thread()] = no_position;
        memory_.search[thread()].low = 0;
    }

    __device__ void operator()(int s_0, const float (&scores)[S::scores]) {
        const int s = s_0 + S::row(0);
        if (queries_.all_see(s_0)) {
#pragma unroll
            for (int i = 0; i < S::scores; ++i)
                if (exceeds(i, scores[i])) append(i, scores[i], s);
        } else {
#pragma unroll
            for (int i = 0; i < S::scores; ++i)
                if (exceeds(i, scores[i]) && queries_.is_there(i) && queries_.sees(problem_, i, s_0))
                    append(i, scores[i], s);
        }
        if (++tiles_ % tiles_between_looks == 0) look();
    }

    __device__ void end() {
#pragma unroll
        for (int a = 0; a < own; ++a)
            lists_.counts[first(a) * columns_of_a_query + column()] = static_cast<std::uint32_t>(rows(a));
        if (thread() < S::queries) lists_.first_nan[first() + thread()] = memory_.first_nan[thread()];
    }

   private:
    static constexpr int threads = 128;
    static constexpr int batch = 8;  // candidates that a thread looks at together

    __device__ int thread() const { return static_cast<int>(threadIdx.x) % threads; }
    __device__ void sync() const { barrier_sync(1 + consumer_, threads); }
    __device__ int column() const { return warp_id() % 4 * 8 + lane_id() / 4; }
    // This run's first query among those of all runs; and own query a.
    __device__ std::uint32_t first() const {
        const std::uint32_t run = static_cast<std::uint32_t>(group_) + blockIdx.x;
        return (run * consumers + static_cast<std::uint32_t>(consumer_)) * S::queries;
    }
    __device__ std::uint32_t first(int a) const { return first() + static_cast<std::uint32_t>(S::query(a)); }
    // Where own query a's column begins in lists.columns. A number of 32 bits: registers are scarce.
    __device__ std::uint32_t column(int a) const {
        return first(a) * static_cast<std::uint32_t>(lists_.rows) * columns_of_a_query +
               static_cast<std::uint32_t>(column());
    }
    __device__ int rows(int a) const { return static_cast<int>((next_[a] - column(a)) / columns_of_a_query); }

    __device__ bool exceeds(int i, float score) const { return !(score <= threshold_[i % own]); }
    // Score i of a thread, whose first is of the key s.
    __device__ void append(int i, float score, int s) {
        lists_.columns[next_[i % own]] = {score, s + i / own * 8};
        next_[i % own] += columns_of_a_query;
    }

    __device__ Scored* best(int a) const {
        const std::int64_t first = (std::int64_t{blockIdx.x} * consumers + consumer_) * S::queries;
        return lists_.best + (first + S::query(a)) * lists_.room;
    }

    // Is a column full? All warps hear the same answer.
    __device__ void look() {
        bool full = false;
#pragma unroll
        for (int a = 0; a < own; ++a) full = full || rows(a) + newcomers > static_cast<int>(lists_.rows);
        const int number = tiles_ / tiles_between_looks;
        int& is_full = memory_.is_full[number % 2];
        if (__any_sync(all_lanes, full) && lane_id() == 0) atomicMax(&is_full, number);
        sync();
        if (is_full == number) {
            cut();
            deal_out_again();
        }
    }

    // see(is_there, candidate) for own query a's column, some at a time, so that their loads are under way together.
    template <class See>
    __device__ void each(int a, See see) const {
        const Scored* from = lists_.columns + column(a);
        const int own_rows = rows(a), most = redux_max(own_rows);
        for (int base = 0; base < most; base += batch) {
            Scored some[batch];
#pragma unroll
            for (int i = 0; i < batch; ++i)
                some[i] = base + i < own_rows ? from[(base + i) * columns_of_a_query] : Scored{0.0F, 0};
            see(some, own_rows - base);
        }
    }

    // The k best of each query, and not many more, leave the columns. The warpgroup's threads come.
    __device__ void cut() {
        if (thread() < S::queries) memory_.kept[thread()] = 0;
        sync();
#pragma unroll
        for (int a = 0; a < own; ++a) atomicAdd(&memory_.kept[S::query(a)], static_cast<std::uint32_t>(rows(a)));
        sync();
        if (thread() < S::queries) {
            // The k-th best was last found at `low`. It is likely to lie within two octaves above.
            const std::uint64_t low = memory_.search[thread()].low >> 32 << 32;
            memory_.search[thread()] = {low, low == 0 ? 64 : 32 + 24, memory_.kept[thread()] <= lists_.room};
            memory_.kept[thread()] = 0;
        }
        sync();
        while (!all_are_over()) narrow();
#pragma unroll
        for (int a = 0; a < own; ++a) keep(a, best(a));
        sync();
    }

    __device__ bool all_are_over() const {
        bool over = true;
        for (int q = 0; q < S::queries; ++q) over = over && memory_.search[q].is_over;
        return over;
    }

    // One digit further.
    __device__ void narrow() {
        for (int i = thread(); i < S::queries * Memory::bins; i += threads)
            memory_.counts[i / Memory::bins][i % Memory::bins] = 0;
        if (thread() < S::queries) memory_.beyond[thread()] = 0;
        sync();
#pragma unroll
        for (int a = 0; a < own; ++a) {
            const RankSearch search = memory_.search[S::query(a)];
            const int shift = max(0, search.bits - Memory::digit_bits);
            std::uint32_t beyond = 0;
            each(a, [&](const Scored(&some)[batch], int count) {
                if (search.is_over) return;
#pragma unroll
                for (int i = 0; i < batch; ++i) {
                    const std::uint64_t rank = rank_of(some[i]);
                    if (i >= count || rank < search.low) continue;
                    const std::uint64_t bin = (rank - search.low) >> shift;
                    if (bin < Memory::bins)
                        atomicAdd(&memory_.counts[S::query(a)][bin], 1U);
                    else
                        ++beyond;
                }
            });
            if (beyond > 0) atomicAdd(&memory_.beyond[S::query(a)], beyond);
        }
        sync();
        for (int q = warp_id() % 4; q < S::queries; q += 4) find_bin(q);
        sync();
    }

    // The bin of query q's k-th best. One warp; lane 0 has the best bins.
    __device__ void find_bin(int q) {
        constexpr int each_lane = Memory::bins / warp_size;
        const RankSearch search = memory_.search[q];
        if (search.is_over) return;
        const std::uint32_t* best = &memory_.counts[q][Memory::bins - 1 - lane_id() * each_lane];
        std::uint32_t mine = 0;
#pragma unroll
        for (int i = 0; i < each_lane; ++i) mine += best[-i];
        std::uint32_t above = memory_.beyond[q] + sum_of_lanes_before(mine);
        __syncwarp();  // all lanes have read the search
        if (memory_.beyond[q] >= lists_.k && lane_id() == 0) memory_.search[q] = {0, 64, false};  // it lies further
        if (above >= lists_.k || above + mine < lists_.k) return;
        const int shift = max(0, search.bits - Memory::digit_bits);
        for (int i = 0; i < each_lane; ++i) {
            above += best[-i];
            if (above < lists_.k) continue;
            const auto bin = static_cast<std::uint64_t>(Memory::bins - 1 - lane_id() * each_lane - i);
            memory_.search[q] = {search.low + (bin << shift), shift, above <= lists_.room};
            return;
        }
    }

    // Own candidates of query a that reach what was found.
    __device__ void keep(int a, Scored* to) {
        const int q = S::query(a);
        const std::uint64_t low = memory_.search[q].low;
        each(a, [&](const Scored(&some)[batch], int count) {
            std::uint32_t stay = 0;
#pragma unroll
            for (int i = 0; i < batch; ++i) {
                if (i >= count) continue;
                if (is_nan(some[i].score)) atomicMin(&memory_.first_nan[q], some[i].position);
                if (rank_of(some[i]) >= low) stay |= 1U << i;
            }
            // The 8 lanes of a query ask for their slots together.
            const auto mine = static_cast<std::uint32_t>(__popc(stay));
            std::uint32_t up_to = mine;
#pragma unroll
            for (int delta = 4; delta < warp_size; delta *= 2) {
                const std::uint32_t other = __shfl_up_sync(all_lanes, up_to, static_cast<unsigned>(delta));
                if (lane_id() >= delta) up_to += other;
            }
            std::uint32_t first = 0;
            if (lane_id() >= warp_size - 4) first = atomicAdd(&memory_.kept[q], up_to);
            std::uint32_t slot = __shfl_sync(all_lanes, first, warp_size - 4 + lane_id() % 4) + up_to - mine;
#pragma unroll
            for (int i = 0; i < batch; ++i)
                if ((stay >> i & 1) != 0) to[slot++] = some[i];
        });
    }

    // Back from where they were left, evenly over the columns; with a threshold for what comes.
    __device__ void deal_out_again() {
#pragma unroll
        for (int a = 0; a < own; ++a) {
            const int q = S::query(a);
            const Scored* from = best(a);
            const auto count = static_cast<int>(memory_.kept[q]);
            next_[a] = column(a);
            for (int first = column(); first < count; first += batch * columns_of_a_query) {
                Scored some[batch];
#pragma unroll
                for (int i = 0; i < batch; ++i)
                    if (first + i * columns_of_a_query < count) some[i] = from[first + i * columns_of_a_query];
#pragma unroll
                for (int i = 0; i < batch; ++i)
                    if (first + i * columns_of_a_query < count)
                        lists_.columns[next_[a] + i * columns_of_a_query] = some[i];
                next_[a] +=
                    min(batch, (count - first + columns_of_a_query - 1) / columns_of_a_query) * columns_of_a_query;
            }
            const auto low = static_cast<std::uint32_t>(memory_.search[q].low >> 32);
            if (low != 0) threshold_[a] = score_of(low);
        }
        sync();
    }

    const Problem& problem_;
    const RunLists& lists_;
    Memory& memory_;
    const int consumer_;
    int group_ = 0;
    QueriesSeeing<S> queries_{};
    float threshold_[own];
    std::uint32_t next_[own];  // where the next candidate goes
    int tiles_ = 0;
};

}  // namespace dsa
